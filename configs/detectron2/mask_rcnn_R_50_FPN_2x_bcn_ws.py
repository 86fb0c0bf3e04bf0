# No public COCO table of WS+BCN exists, and this config claims no AP. The kernels start from the
# GN+WS backbone, the norms afresh: hence nothing is frozen.
from .common.bcn import norm
from .mask_rcnn_R_50_FPN_2x_gn_ws import dataloader, lr_multiplier, model, optimizer, train

model.module.backbone.norm = norm
model.module.backbone.bottom_up.freeze_at = 0
train.clip_grad = dict(max_norm=35)
