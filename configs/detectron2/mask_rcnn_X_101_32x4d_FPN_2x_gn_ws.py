from .common.resnext_101_32x4d import stages
from .mask_rcnn_R_50_FPN_2x_gn_ws import dataloader, lr_multiplier, model, optimizer, train

model.module.backbone.bottom_up.stages = stages
train.init_checkpoint = (
    "https://download.openmmlab.com/pretrain/third_party/resnext101_32x4d_gn_ws-34ac1a9e.pth"
)
