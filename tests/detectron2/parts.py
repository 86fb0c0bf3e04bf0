"""Detectron2's own configs with our parts named in them, full-sized and tiny."""

from __future__ import annotations

from typing import Any

from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import batched_nms
from torch import Tensor

from ws_det.detectron2 import add_ws_config

# So few channels that a forward pass takes some hundredths of a second.
TINY = {
    "MODEL.WS.NUM_GROUPS": 4,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.RETINANET.NUM_CLASSES": 3,
    "MODEL.RETINANET.NUM_CONVS": 1,
}


# TorchScript compiles it too.
def nms_of_float32(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    return batched_nms(boxes, scores.float(), idxs, iou_threshold)


def yaml_config(
    norm: str = "GN", options: dict[str, Any] | None = None, retinanet: bool = False
) -> CfgNode:
    """Detectron2's own Mask R-CNN or RetinaNet R50-FPN config, with each of our parts named."""
    cfg = get_cfg()
    add_ws_config(cfg)
    base = "Base-RetinaNet.yaml" if retinanet else "Base-RCNN-FPN.yaml"
    cfg.merge_from_file(model_zoo.get_config_file(base))
    settings = {
        "MODEL.WEIGHTS": "",
        "MODEL.DEVICE": "cpu",
        "MODEL.META_ARCHITECTURE": "WSRetinaNet" if retinanet else "GeneralizedRCNN",
        "MODEL.MASK_ON": not retinanet,
        "MODEL.BACKBONE.NAME": f"build_ws_{'retinanet_' if retinanet else ''}resnet_fpn_backbone",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.NORM": norm,
        "MODEL.FPN.NORM": norm,
        "MODEL.RETINANET.NORM": norm,
        "MODEL.ROI_BOX_HEAD.NAME": "WSFastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.NUM_CONV": 4,
        "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
        "MODEL.ROI_BOX_HEAD.NORM": norm,
        "MODEL.ROI_MASK_HEAD.NAME": "WSMaskRCNNConvUpsampleHead",
        "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
        "MODEL.ROI_MASK_HEAD.NORM": norm,
        **(options or {}),
    }
    cfg.merge_from_list([part for setting in settings.items() for part in setting])
    return cfg
