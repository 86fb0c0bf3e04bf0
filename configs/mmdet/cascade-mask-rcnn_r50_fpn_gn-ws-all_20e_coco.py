_base_ = [
    'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_20e.py',
    'mmdet::_base_/default_runtime.py',
    './_base_/gn-ws.py',
]
box_head = dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, **_base_.layers)
model = dict(
    backbone=dict(**_base_.layers, init_cfg=dict(checkpoint='open-mmlab://jhu/resnet50_gn_ws')),
    neck=_base_.layers,
    roi_head=dict(
        bbox_head=[{**stage, **box_head} for stage in _base_.model.roi_head.bbox_head],
        mask_head=_base_.layers))
