"""What a Detectron2 yaml can name, and what conversion learns about Detectron2.

Every part here is Detectron2's own, built with norms from :func:`ws_det.detectron2.get_norm` and
then converted.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from itertools import pairwise
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, CycleBatchNormList, FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    Backbone,
    RetinaNet,
)
from detectron2.modeling.backbone.fpn import (
    build_resnet_fpn_backbone,
    build_retinanet_resnet_fpn_backbone,
)
from detectron2.modeling.backbone.resnet import build_resnet_backbone
from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import nn

from ws_det import convert
from ws_det.checkpoint import state_dict_of
from ws_det.detectron2.layers import WSConv2d
from ws_det.detectron2.loop import ask, asks
from ws_det.detectron2.norms import get_norm
from ws_det.errors import InputError
from ws_det.renaming import pass_on_to_parents


def add_ws_config(cfg: CfgNode) -> None:
    """Add ``MODEL.WS`` and ours in ``SOLVER`` to a config, before a yaml is merged.

    Calling it again changes nothing.

    Args:
        cfg: From ``detectron2.config.get_cfg()``.
    """
    if "WS" in cfg.MODEL:
        return
    cfg.MODEL.WS = CfgNode()
    # Groups of the norms GN and BCN, wherever a part of this file has them.
    cfg.MODEL.WS.NUM_GROUPS = 32
    # BCN for 1-2 images per GPU; False is the form for large batches.
    cfg.MODEL.WS.ESTIMATE = True
    # Rate of the running statistics of BCN and EstBN.
    cfg.MODEL.WS.MOMENTUM = 0.1
    # Key of ws_det.FORMULAS.
    cfg.MODEL.WS.FORMULA = "ws"
    # Start from weights without WS: kernels keep their mean and deviation as constants.
    cfg.MODEL.WS.ADAPTIVE = False
    # Forward and backward passes in an iteration, whose mean gradient makes one optimizer step.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # At a loss or gradient that is not finite: stop, or skip the step.
    cfg.SOLVER.ON_NAN = "stop"
    # Bound of the whole gradient's norm, 0 for none; Detectron2's CLIP_GRADIENTS takes each
    # parameter by itself.
    cfg.SOLVER.CLIP_GRAD_NORM = 0.0


def build_ws_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Detectron2's ``build_resnet_backbone`` with WS, norm from ``RESNETS.NORM``.

    Set that norm: Detectron2's default, FrozenBN, fits weights trained with WS and BN alone, and
    makes the output explode with others. Deformable convolutions stay as they are.
    """
    backbone = build_resnet_backbone(_with_norms(cfg, "RESNETS"), input_shape)
    return ask(convert.convert_to_ws(backbone, **_options(cfg)), asks(cfg))


def build_ws_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Detectron2's ``build_resnet_fpn_backbone`` with WS, norms from ``RESNETS`` and ``FPN``.

    Without a norm in the FPN, which is Detectron2's default, the FPN stays as it is.
    """
    backbone = build_resnet_fpn_backbone(_with_norms(cfg, "RESNETS", "FPN"), input_shape)
    return ask(convert.convert_to_ws(backbone, **_options(cfg)), asks(cfg))


def build_ws_retinanet_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """As :func:`build_ws_resnet_fpn_backbone`, with P6 and P7 for RetinaNet."""
    backbone = build_retinanet_resnet_fpn_backbone(_with_norms(cfg, "RESNETS", "FPN"), input_shape)
    return ask(convert.convert_to_ws(backbone, **_options(cfg)), asks(cfg))


class WSFastRCNNConvFCHead(FastRCNNConvFCHead):
    """Detectron2's box head with WS convolutions, norm from ``ROI_BOX_HEAD.NORM``."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        formula: str = "ws",
        adaptive: bool = False,
        asked: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(input_shape, **kwargs)
        convert.convert_to_ws(self, formula=formula, adaptive=adaptive)
        if asked:
            ask(self, asked)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """The arguments of ``__init__``."""
        options = super().from_config(_with_norms(cfg, "ROI_BOX_HEAD"), input_shape)
        return options | _options(cfg) | {"asked": asks(cfg)}


class WSMaskRCNNConvUpsampleHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head with WS convolutions, norm from ``ROI_MASK_HEAD.NORM``.

    The deconvolution and the predictor, which no norm follows, stay as they are.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        formula: str = "ws",
        adaptive: bool = False,
        asked: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(input_shape, **kwargs)
        convert.convert_to_ws(self, formula=formula, adaptive=adaptive)
        if asked:
            ask(self, asked)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """The arguments of ``__init__``."""
        options = super().from_config(_with_norms(cfg, "ROI_MASK_HEAD"), input_shape)
        return options | _options(cfg) | {"asked": asks(cfg)}


class WSRetinaNet(RetinaNet):
    """RetinaNet whose head has WS convolutions, norm from ``RETINANET.NORM``.

    One norm serves all levels of the pyramid. Only BN and SyncBN have one per level there, which
    is Detectron2's own rule.
    """

    @configurable
    def __init__(
        self,
        *,
        head: nn.Module,
        formula: str = "ws",
        adaptive: bool = False,
        asked: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        head = convert.convert_to_ws(head, formula=formula, adaptive=adaptive)
        super().__init__(head=head, **kwargs)
        if asked:
            ask(self, asked)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The arguments of ``__init__``."""
        options = super().from_config(_with_norms(cfg, "RETINANET"))
        return options | _options(cfg) | {"asked": asks(cfg)}


PARTS = {
    BACKBONE_REGISTRY: (
        build_ws_resnet_backbone,
        build_ws_resnet_fpn_backbone,
        build_ws_retinanet_resnet_fpn_backbone,
    ),
    ROI_BOX_HEAD_REGISTRY: (WSFastRCNNConvFCHead,),
    ROI_MASK_HEAD_REGISTRY: (WSMaskRCNNConvUpsampleHead,),
    META_ARCH_REGISTRY: (WSRetinaNet,),
}


def register_parts() -> None:
    """Register the parts with Detectron2 and its convolution with conversion; twice is harmless.

    Raises:
        InputError: If another project holds one of the names.
    """
    for registry, parts in PARTS.items():
        for part in parts:
            if part.__name__ not in registry:
                registry.register(part)
            elif (holder := registry.get(part.__name__).__module__) != part.__module__:
                raise InputError(
                    f"{part.__name__} is already registered by {holder}: import only one of them"
                )
    if Conv2d not in convert.WS_CLASSES:
        convert.WS_CLASSES[Conv2d] = WSConv2d
        convert.FROZEN_NORMS.add(FrozenBatchNorm2d)
        convert.register_pairing(pair_own_norm)
        convert.register_pairing(pair_cycle_norms)
    pass_on_to_parents()
    read_inner_weights()


def read_inner_weights() -> None:
    """Let Detectron2 read files that have their weights under ``state_dict``, as MMDetection's.

    It takes all of such a file for weights, and raises at the first entry that is none.
    """
    own = DetectionCheckpointer._load_model
    if hasattr(own, "__wrapped__"):
        return

    @wraps(own)
    def load_model(self: DetectionCheckpointer, checkpoint: dict[str, Any]) -> Any:
        if isinstance(checkpoint["model"].get("state_dict"), dict):
            checkpoint["model"] = state_dict_of(checkpoint["model"])
        return own(self, checkpoint)

    DetectionCheckpointer._load_model = load_model


def pair_own_norm(parent: nn.Module) -> dict[str, str] | None:
    """Detectron2's convolution carries the norm that follows it."""
    if not isinstance(parent, Conv2d):
        return None
    return {} if parent.norm is None else {"": "norm"}


def pair_cycle_norms(parent: nn.Module) -> dict[str, str] | None:
    """RetinaNet's head has a list of batch norms, one per level, where others have a norm."""
    children = list(parent.named_children())
    if not any(isinstance(child, CycleBatchNormList) for _, child in children):
        return None
    return {
        name: next_name
        for (name, conv), (next_name, norm) in pairwise(children)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, CycleBatchNormList)
    }


def _options(cfg: CfgNode) -> dict[str, Any]:
    return {"formula": cfg.MODEL.WS.FORMULA, "adaptive": cfg.MODEL.WS.ADAPTIVE}


def _with_norms(cfg: CfgNode, *nodes: str) -> CfgNode:
    """A copy of ``cfg`` with what ``get_norm`` makes of ``MODEL.<node>.NORM`` in its place.

    Raises:
        InputError: If the config was not made by :func:`add_ws_config`, the first of the norms is
            none, or one of the names is unknown.
    """
    if "WS" not in cfg.MODEL:
        raise InputError(
            "this config has no MODEL.WS: call ws_det.detectron2.add_ws_config(cfg) before merging"
        )
    ws = cfg.MODEL.WS
    if not cfg.MODEL[nodes[0]].NORM:
        raise InputError(
            f"MODEL.{nodes[0]}.NORM={cfg.MODEL[nodes[0]].NORM!r} puts no norm behind the "
            f"convolutions, which WS needs: set GN or BCN, or name Detectron2's own part"
        )
    cfg = cfg.clone()
    for node in nodes:
        norm = get_norm(cfg.MODEL[node].NORM, ws.NUM_GROUPS, ws.ESTIMATE, ws.MOMENTUM)
        cfg.MODEL[node]["NORM"] = norm  # by item: as an attribute a CfgNode takes no callable
    return cfg


register_parts()
