# WS+GN in the backbone, the FPN and both RoI heads; 8 groups, for the layers are narrow.
_base_ = './_base_/mask-rcnn_r18_fpn_shapes.py'
conv_cfg = dict(type='WSConv2d')
norm_cfg = dict(type='GN', num_groups=8, requires_grad=True)
model = dict(
    backbone=dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg),
    neck=dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg),
        mask_head=dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg)))
