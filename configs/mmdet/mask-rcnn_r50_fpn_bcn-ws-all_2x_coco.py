# No public COCO table of WS+BCN exists, and this config claims no AP. The kernels start from the
# GN+WS backbone, the norms afresh: hence nothing is frozen and no norm is kept in evaluation mode.
_base_ = ['./_base_/mask-rcnn_r50_fpn_2x_coco.py', './_base_/bcn-ws.py']
model = dict(
    backbone=dict(
        **_base_.layers,
        norm_eval=False,
        frozen_stages=-1,
        init_cfg=dict(checkpoint='open-mmlab://jhu/resnet50_gn_ws')),
    neck=_base_.layers,
    roi_head=dict(bbox_head=_base_.layers, mask_head=_base_.layers))
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
