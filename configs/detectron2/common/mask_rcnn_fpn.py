"""Mask R-CNN R50-FPN whose every norm is GN and whose every convolution before a norm is WS.

``model.module`` is Detectron2's own Mask R-CNN. All norms follow ``model.module.backbone.norm``.
"""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L

from ws_det.detectron2.loop import convert_for_loop

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model.backbone.norm = "GN"
model.backbone.bottom_up.stem.norm = model.backbone.bottom_up.stages.norm = "${...norm}"
model.backbone.bottom_up.freeze_at = 2

# With a norm in the box head: 4conv1fc
model.roi_heads.box_head.conv_dims = [256, 256, 256, 256]
model.roi_heads.box_head.fc_dims = [1024]
model.roi_heads.box_head.conv_norm = "${...backbone.norm}"
model.roi_heads.mask_head.conv_norm = "${...backbone.norm}"

# What the pretrained WS backbones were trained with
constants = model_zoo.get_config("common/data/constants.py").constants
model.input_format = "RGB"
model.pixel_mean = constants.imagenet_rgb256_mean
model.pixel_std = constants.imagenet_rgb256_std
model.backbone.bottom_up.stages.stride_in_1x1 = False

# `train` says what a loop has to do that Detectron2's own does not, as to accumulate
model = L(convert_for_loop)(module=model, train="${oc.select:train,null}")
