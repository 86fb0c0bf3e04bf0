# 8 GPUs x 1 image: total batch 8, half of the 16 behind lr 0.02 and a warm-up of 1,000 iterations.
#   lr          0.02 * 8 / 16    = 0.01
#   iterations  180,000 * 16 / 8 = 360,000, the same 2,880,000 images
#   steps       120,000 * 16 / 8 = 240,000 and 160,000 * 16 / 8 = 320,000
#   warm-up     1,000 * 16 / 8   = 2,000 iterations, the same 16,000 images
# lr_multiplier counts in parts of max_iter, so steps and warm-up move with it.
from .mask_rcnn_R_50_FPN_2x_gn_ws import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.total_batch_size = 8
optimizer.lr *= 8 / 16
train.max_iter *= 16 // 8
train.eval_period *= 16 // 8
train.checkpointer.period *= 16 // 8
train.clip_grad = dict(max_norm=35)
