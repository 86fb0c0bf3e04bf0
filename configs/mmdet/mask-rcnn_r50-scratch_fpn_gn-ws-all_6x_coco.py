# From scratch: nothing is pretrained or frozen; the schedule is that of MMDetection's own.
_base_ = './mask-rcnn_r50_fpn_gn-ws-all_2x_coco.py'
model = dict(
    backbone=dict(frozen_stages=-1, norm_eval=False, zero_init_residual=False, init_cfg=None))
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))
train_cfg = dict(max_epochs=73)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=73, milestones=[65, 71])
