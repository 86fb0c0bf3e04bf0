# No public COCO table of WS+BCN exists, and this config claims no AP.
_base_ = './mask-rcnn_r50_fpn_bcn-ws-all_2x_coco.py'
model = dict(
    backbone=dict(depth=101, init_cfg=dict(checkpoint='open-mmlab://jhu/resnet101_gn_ws')))
