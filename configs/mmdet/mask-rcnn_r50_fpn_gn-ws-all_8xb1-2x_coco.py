# 8 GPUs x 1 image: total batch 8, half of the 16 behind lr 0.02 and a warm-up of 500 steps.
#   lr      0.02 * 8 / 16 = 0.01
#   warm-up 500 * 16 / 8  = 1000 iterations, the same 8000 images
# Epochs count images, so the two steps at epochs 16 and 22 stay.
_base_ = './mask-rcnn_r50_fpn_gn-ws-all_2x_coco.py'
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(optimizer=dict(lr=0.01), clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = _base_.param_scheduler
param_scheduler[0]['end'] = 1000
auto_scale_lr = dict(base_batch_size=8)  # the total batch that lr 0.01 is for
# An epoch is long at this batch: a killed run loses 5000 iterations at most.
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5000, max_keep_ckpts=3))
