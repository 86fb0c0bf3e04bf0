from .mask_rcnn_R_50_FPN_2x_gn_ws import dataloader, lr_multiplier, model, optimizer, train

model.module.backbone.bottom_up.stages.depth = 101
train.init_checkpoint = (
    "https://download.openmmlab.com/pretrain/third_party/resnet101_gn_ws-3e3c308c.pth"
)
