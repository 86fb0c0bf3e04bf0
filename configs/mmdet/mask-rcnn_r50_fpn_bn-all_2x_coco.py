# Baseline: BN that trains on the batch of each GPU, where GN+WS has its norms.
_base_ = './_base_/mask-rcnn_r50_fpn_2x_coco.py'
norm = dict(norm_cfg=dict(type='BN', requires_grad=True))
# torchvision://resnet50 by its address: the scheme would need torchvision installed.
weights = 'https://download.pytorch.org/models/resnet50-0676ba61.pth'
model = dict(
    backbone=dict(**norm, norm_eval=False, init_cfg=dict(checkpoint=weights)),
    neck=norm,
    roi_head=dict(bbox_head=norm, mask_head=norm))
