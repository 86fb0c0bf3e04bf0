# Baseline: BN that trains on the batch of each GPU, where GN+WS has its norms.
_base_ = './_base_/mask-rcnn_r50_fpn_2x_coco.py'
norm = dict(norm_cfg=dict(type='BN', requires_grad=True))
model = dict(
    backbone=dict(**norm, norm_eval=False),
    neck=norm,
    roi_head=dict(bbox_head=norm, mask_head=norm))
