"""A small Mask R-CNN from scratch on drawn shapes: minutes on two processes of one image each."""
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
custom_imports = dict(imports=['ws_det.mmdet'], allow_failed_imports=False)
model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[64.0] * 3),
    backbone=dict(
        depth=18, base_channels=16, frozen_stages=-1, norm_eval=False, zero_init_residual=False,
        init_cfg=None),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=48, num_outs=4),
    rpn_head=dict(
        in_channels=48, feat_channels=48,
        anchor_generator=dict(scales=[4], ratios=[1.0], strides=[4, 8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=48, roi_layer=dict(sampling_ratio=1)),
        bbox_head=dict(
            type='ConvFCBBoxHead', num_shared_convs=2, num_shared_fcs=1, in_channels=48,
            conv_out_channels=48, fc_out_channels=128, num_classes=5),
        mask_roi_extractor=dict(out_channels=48, roi_layer=dict(sampling_ratio=1)),
        mask_head=dict(num_convs=2, in_channels=48, conv_out_channels=48, num_classes=5)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=100, max_per_img=64),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5))),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50), rcnn=dict(max_per_img=20)))

load_image = dict(type='LoadImageFromFile')
load_annotations = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
resize = dict(type='Resize', scale=(128, 128), keep_ratio=True)
dataset = dict(
    type='CocoDataset', data_root='data/shapes/',
    metainfo=dict(classes=('circle', 'square', 'triangle', 'star', 'ring')))
train_dataloader = dict(
    batch_size=1, num_workers=0,  # such small images are read faster than handed over
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        **dataset, ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        pipeline=[
            load_image, load_annotations, resize, dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs')]))
val_dataloader = dict(
    batch_size=1, num_workers=0, drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset, ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'), test_mode=True,
        pipeline=[
            load_image, resize, load_annotations,
            dict(
                type='PackDetInputs',
                meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric', ann_file=f"{dataset['data_root']}annotations/instances_val2017.json",
    metric=['bbox', 'segm'])
test_evaluator = val_evaluator

# Each step sees 2 images; the last weights are kept.
max_iters = 1800
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=600)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.02),
    clip_grad=dict(max_norm=10))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=140),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=140, end=max_iters, eta_min=0)]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=max_iters))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
