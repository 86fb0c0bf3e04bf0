# 2x: 180,000 iterations of 16 images, lr 0.02, a tenth of it from 120,000 and again from 160,000.
from detectron2 import model_zoo

from .common.coco import dataloader, optimizer, train
from .common.mask_rcnn_fpn import model

lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_2x
train.max_iter = 180_000
train.init_checkpoint = (
    "https://download.openmmlab.com/pretrain/third_party/resnet50_gn_ws-15beedd8.pth"
)
