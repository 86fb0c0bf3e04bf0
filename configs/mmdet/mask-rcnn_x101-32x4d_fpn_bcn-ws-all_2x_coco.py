# No public COCO table of WS+BCN exists, and this config claims no AP.
_base_ = './mask-rcnn_r50_fpn_bcn-ws-all_2x_coco.py'
model = dict(
    backbone=dict(
        type='ResNeXt',
        depth=101,
        groups=32,
        base_width=4,
        init_cfg=dict(checkpoint='open-mmlab://jhu/resnext101_32x4d_gn_ws')))
