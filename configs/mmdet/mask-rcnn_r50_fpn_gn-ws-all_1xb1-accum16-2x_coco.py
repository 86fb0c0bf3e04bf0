# 1 GPU x 1 image, 16 backward passes per optimizer step: the effective batch is 1 * 1 * 16 = 16.
#   lr      0.02 * 16 / 16 = 0.02
#   warm-up 500 steps * 16 iterations a step = 8000 iterations, the same 8000 images
# MMEngine counts iterations, not optimizer steps. Epochs count images, so their steps stay.
_base_ = './mask-rcnn_r50_fpn_gn-ws-all_2x_coco.py'
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(
    optimizer=dict(lr=0.02), accumulative_counts=16, clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = _base_.param_scheduler
param_scheduler[0]['end'] = 8000
# An epoch is long at this batch: a killed run loses 5000 iterations at most.
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5000, max_keep_ckpts=3))
