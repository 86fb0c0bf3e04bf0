"""Detectron2's test-time augmentation: each image in several sizes, flipped and not, merged."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import (
    DatasetMapperTTA,
    GeneralizedRCNN,
    GeneralizedRCNNWithTTA,
    PanopticFPN,
)
from detectron2.modeling.roi_heads import RROIHeads
from torch import nn

from ws_det.errors import InputError

# What TEST.AUG has, in small letters as a LazyConfig has them in train.tta.
KEYS = ("enabled", "min_sizes", "max_size", "flip")


class GeneralizedRCNNTTA(GeneralizedRCNNWithTTA):
    """Detectron2's own, whose ``roi_heads`` say whether there are masks."""

    @property
    def roi_heads(self) -> nn.Module:
        """Those of the detector."""
        return self.model.roi_heads


def settings(aug: Any) -> dict[str, Any]:
    """Of test-time augmentation.

    Args:
        aug: ``TEST.AUG`` of a yaml config, ``train.tta`` of a LazyConfig or None.

    Raises:
        InputError: If there is something else in it, or no size.
    """
    default, given = get_cfg().TEST.AUG, aug or {}
    if unknown := [str(key) for key in given if str(key).lower() not in KEYS]:
        raise InputError(f"train.tta.{unknown[0]} is not known: train.tta takes {', '.join(KEYS)}")
    found = {key: default[key.upper()] for key in KEYS}
    found |= {str(key).lower(): given[key] for key in given}
    sizes = found["min_sizes"]
    numbers = [*sizes] if not isinstance(sizes, (int, str)) and sizes else [None]
    if not all(isinstance(n, int) and n > 0 for n in (*numbers, found["max_size"])):
        raise InputError(
            f"test-time augmentation in sizes {sizes} up to {found['max_size']}: give train.tta "
            f"(in a yaml config TEST.AUG) min_sizes, a list, and max_size in pixels"
        )
    return found | {"min_sizes": numbers}


def check_tta(model: nn.Module) -> None:
    """Check that a detector can be tested so.

    Args:
        model: The detector.

    Raises:
        InputError: If Detectron2's test-time augmentation does not know its kind.
    """
    kind = type(model).__name__
    heads = getattr(model, "roi_heads", None)
    if not isinstance(model, GeneralizedRCNN) or isinstance(model, PanopticFPN):
        fault = f"the model is a {kind}"
    elif getattr(heads, "keypoint_on", False):
        fault = "the model has keypoints"
    elif isinstance(heads, RROIHeads):
        fault = "the model has rotated boxes"
    elif model.proposal_generator is None:
        fault = "the model takes its proposals from a file"
    elif not hasattr(heads, "box_predictor"):
        fault = f"the model has heads of its own, {type(heads).__name__}"
    else:
        return
    raise InputError(
        f"{fault}, and Detectron2's test-time augmentation is for a GeneralizedRCNN with boxes and "
        f"masks alone: leave out --tta (in a config TEST.AUG.ENABLED or train.tta)"
    )


def with_tta(recipe: Any, model: nn.Module) -> GeneralizedRCNNTTA:
    """A detector with test-time augmentation.

    Args:
        recipe: Of its config.
        model: The detector, in DDP or not.
    """
    whole = getattr(model, "module", model)
    tta = recipe.tta
    mapper = DatasetMapperTTA(tta["min_sizes"], tta["max_size"], tta["flip"])
    return GeneralizedRCNNTTA(_config_of(whole), whole, mapper)


def _config_of(model: GeneralizedRCNN) -> CfgNode:
    """What of a yaml config the augmentation reads, from the model that was built."""
    heads, cfg = model.roi_heads, get_cfg()
    predictor = heads.box_predictor
    last = predictor[-1] if isinstance(predictor, nn.ModuleList) else predictor
    cfg.MODEL.MASK_ON = bool(getattr(heads, "mask_on", False))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = heads.num_classes
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = last.test_nms_thresh
    cfg.TEST.DETECTIONS_PER_IMAGE = last.test_topk_per_image
    return cfg
