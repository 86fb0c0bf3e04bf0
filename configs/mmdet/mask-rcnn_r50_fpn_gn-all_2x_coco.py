# Baseline: GN without WS, with its own published backbone, whose input is BGR and not divided.
_base_ = './_base_/mask-rcnn_r50_fpn_2x_coco.py'
norm = dict(norm_cfg=dict(type='GN', num_groups=32, requires_grad=True))
model = dict(
    data_preprocessor=dict(
        mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(**norm, init_cfg=dict(checkpoint='open-mmlab://detectron/resnet50_gn')),
    neck=norm,
    roi_head=dict(bbox_head=norm, mask_head=norm))
