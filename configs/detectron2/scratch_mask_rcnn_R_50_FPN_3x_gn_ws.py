# From scratch: nothing is pretrained or frozen.
from .mask_rcnn_R_50_FPN_3x_gn_ws import dataloader, lr_multiplier, model, optimizer, train

model.module.backbone.bottom_up.freeze_at = 0
train.init_checkpoint = ""
