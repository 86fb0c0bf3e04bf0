"""A small Mask R-CNN from scratch on drawn shapes: minutes on two processes of one image each.

Model, data and schedule are those of the MMDetection demo, field by field.
"""

import detectron2.data.transforms as T
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import BasicBlock, ResNet
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

import ws_det.detectron2.data  # registers shapes_train and shapes_val

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model.input_format = "RGB"
model.pixel_mean = [127.5, 127.5, 127.5]
model.pixel_std = [64.0, 64.0, 64.0]

# All norms follow the FPN's, which the named configs set.
model.backbone.bottom_up.stem.update(out_channels=16, norm="${...norm}")
model.backbone.bottom_up.stages = [
    L(ResNet.make_stage)(
        block_class=BasicBlock,
        num_blocks=2,
        stride_per_block=[stride, 1],
        in_channels=inputs,
        out_channels=outputs,
        norm="${....norm}",
    )
    for stride, inputs, outputs in ((1, 16, 16), (2, 16, 32), (2, 32, 64), (2, 64, 128))
]
model.backbone.update(out_channels=48, top_block=None)

rpn = model.proposal_generator
rpn.in_features = ["p2", "p3", "p4", "p5"]
rpn.head.update(in_channels=48, num_anchors=1)
rpn.anchor_generator.update(
    sizes=[[16], [32], [64], [128]], aspect_ratios=[1.0], strides=[4, 8, 16, 32]
)
rpn.update(batch_size_per_image=64, pre_nms_topk=(100, 100), post_nms_topk=(64, 50))

heads = model.roi_heads
heads.update(num_classes=5, batch_size_per_image=32, positive_fraction=0.5)
heads.box_pooler.sampling_ratio = heads.mask_pooler.sampling_ratio = 1
heads.box_head.update(
    input_shape=ShapeSpec(channels=48, height=7, width=7),
    conv_dims=[48, 48],
    fc_dims=[128],
    conv_norm="${...backbone.norm}",
)
heads.box_predictor.update(input_shape=ShapeSpec(channels=128), test_topk_per_image=20)
heads.mask_head.update(
    input_shape=ShapeSpec(channels=48, height=14, width=14),
    conv_dims=[48, 48, 48],  # two convolutions and the deconvolution
    conv_norm="${...backbone.norm}",
)

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.dataset.update(names="shapes_train", filter_empty=False)
dataloader.test.dataset.names = "shapes_val"
resize = L(T.ResizeShortestEdge)(short_edge_length=128, max_size=128)
dataloader.train.mapper.update(
    augmentations=[resize, L(T.RandomFlip)(horizontal=True)],
    image_format="RGB",
    instance_mask_format="bitmask",  # shapes with holes are run-length encoded
)
dataloader.test.mapper.augmentations = [resize]
dataloader.train.total_batch_size = 2
# such small images are read faster than handed over
dataloader.train.num_workers = dataloader.test.num_workers = 0

# Each iteration sees 2 images; the last weights are kept. AdamW decays norms as well.
train = model_zoo.get_config("common/train.py").train
train.update(max_iter=1800, eval_period=600, clip_grad=dict(max_norm=10), seed=0)
train.checkpointer.period = train.max_iter
optimizer = model_zoo.get_config("common/optim.py").AdamW
optimizer.update(lr=2e-3, betas=(0.9, 0.999), weight_decay=0.02)
optimizer.params.weight_decay_norm = None
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_factor=0.01,
    warmup_length=140 / train.max_iter,
    rescale_interval=True,  # the cosine begins where the warm-up ends
)
