# 1 GPU x 1 image, 16 backward passes per optimizer step: the effective batch is 1 * 1 * 16 = 16.
#   lr          0.02 * 16 / 16 = 0.02
#   iterations  180,000, for an iteration is an optimizer step: 180,000 * 16 = 2,880,000 images
#   steps       120,000 and 160,000
#   warm-up     1,000 iterations, the same 1,000 * 16 = 16,000 images
from .mask_rcnn_R_50_FPN_2x_gn_ws import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.total_batch_size = 1
train.accumulation_steps = 16
train.clip_grad = dict(max_norm=35)
