# 3x: 270,000 iterations of 16 images, lr 0.02, a tenth of it from 210,000 and again from 250,000.
from detectron2 import model_zoo

from .mask_rcnn_X_101_32x4d_FPN_2x_gn_ws import dataloader, model, optimizer, train

lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_3x
train.max_iter = 270_000
