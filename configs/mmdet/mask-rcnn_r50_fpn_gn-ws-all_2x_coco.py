_base_ = ['./_base_/mask-rcnn_r50_fpn_2x_coco.py', './_base_/gn-ws.py']
model = dict(
    backbone=dict(
        **_base_.layers,
        init_cfg=dict(checkpoint='open-mmlab://jhu/resnet50_gn_ws')),
    neck=_base_.layers,
    roi_head=dict(bbox_head=_base_.layers, mask_head=_base_.layers))
