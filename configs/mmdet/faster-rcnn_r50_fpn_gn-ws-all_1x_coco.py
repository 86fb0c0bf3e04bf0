_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
    './_base_/gn-ws.py',
]
model = dict(
    backbone=dict(**_base_.layers, init_cfg=dict(checkpoint='open-mmlab://jhu/resnet50_gn_ws')),
    neck=_base_.layers,
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, **_base_.layers)))
