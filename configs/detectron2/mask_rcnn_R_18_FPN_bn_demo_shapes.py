# BN where the GN+WS demo has WS+GN, for comparison; everything else is equal.
from .common.mask_rcnn_R_18_FPN_shapes import dataloader, lr_multiplier, model, optimizer, train

model.backbone.norm = "BN"
