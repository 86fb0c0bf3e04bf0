# Baseline: BN over the batch of all GPUs. For CPUs torch has it within one process alone.
_base_ = './mask-rcnn_r50_fpn_bn-all_2x_coco.py'
norm = dict(norm_cfg=dict(type='SyncBN', requires_grad=True))
model = dict(
    backbone=norm,
    neck=norm,
    roi_head=dict(bbox_head=norm, mask_head=norm))
