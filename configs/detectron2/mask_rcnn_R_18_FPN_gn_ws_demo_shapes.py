# WS+GN in the backbone, the FPN and both RoI heads; 8 groups, for the layers are narrow.
from functools import partial

from detectron2.config import LazyCall as L
from torch import nn

from ws_det.detectron2.loop import convert_for_loop

from .common.mask_rcnn_R_18_FPN_shapes import dataloader, lr_multiplier, model, optimizer, train

model.backbone.norm = partial(nn.GroupNorm, 8)
model = L(convert_for_loop)(module=model, train="${oc.select:train,null}")
