# BN where the GN+WS demo has WS+GN, for comparison; everything else is equal.
_base_ = './_base_/mask-rcnn_r18_fpn_shapes.py'
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg)))
