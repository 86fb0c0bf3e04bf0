"""Everything that can be checked before the first file is written."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn

from ws_det import fit
from ws_det.checkpoint import below, state_dict_of
from ws_det.checks import check_writable
from ws_det.errors import InputError
from ws_det.mmdet import weights
from ws_det.mmdet.annotations import Reading
from ws_det.mmdet.building import building, check_loaders, check_optimization
from ws_det.mmdet.data import check_data
from ws_det.mmdet.evaluators import check_evaluators
from ws_det.mmdet.settings import check_settings

_REMEDY = (
    "give weights trained with WS, as open-mmlab://jhu/resnet50_gn_ws, or train from scratch with "
    "--cfg-options model.backbone.init_cfg=None"
)


def check_training(cfg: Config, force: bool = False) -> list[Reading]:
    """Check a complete config for training.

    Args:
        cfg: The config.
        force: Only warn of weights trained in another way.

    Returns:
        As ``check_data``.

    Raises:
        InputError: For the first fault found, cheap checks first.
    """
    check_writable(cfg.work_dir, "--work-dir")
    checkpoints = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    if checkpoints.get("out_dir"):
        check_writable(checkpoints["out_dir"], "default_hooks.checkpoint.out_dir")
    if cfg.optim_wrapper.get("type") == "AmpOptimWrapper" and not torch.cuda.is_available():
        raise InputError(
            "--amp needs a GPU, MMEngine's AmpOptimWrapper refuses to run without: leave it out"
        )
    check_settings(cfg, ("train", "val"))
    check_evaluators(cfg, ("val",))
    check_loaders(cfg, ("train", "val"))
    readings = check_data(cfg, ("train", "val"))
    model = build_model(cfg)
    check_optimization(cfg, model)
    backbone_init = (cfg.model.get("backbone") or {}).get("init_cfg")
    for init in backbone_init if isinstance(backbone_init, list) else [backbone_init]:
        if init and init.get("type") == "Pretrained":
            check_init(model.backbone, init, force)
    checkpoint = cfg.get("load_from")
    if checkpoint:
        check = fit.check_whole if cfg.get("resume") else fit.check_start
        check(model, _weights(checkpoint), checkpoint, _REMEDY, force=force)
    return readings


def check_test(cfg: Config, force: bool = False) -> list[Reading]:
    """Check a complete config for testing ``cfg.load_from``.

    Args:
        cfg: The config.
        force: Only warn of weights trained in another way.

    Returns:
        As ``check_data``.

    Raises:
        InputError: For the first fault found.
    """
    check_writable(cfg.work_dir, "--work-dir")
    state = _weights(cfg.load_from)  # first: a mistyped name must not wait for the data
    check_settings(cfg, ("test",))
    check_evaluators(cfg, ("test",))
    check_loaders(cfg, ("test",))
    readings = check_data(cfg, ("test",))
    fit.check_whole(build_model(cfg), state, cfg.load_from, _REMEDY, force=force)
    return readings


def check_init(backbone: nn.Module, init: dict[str, Any], force: bool = False) -> None:
    """Check the weights that an ``init_cfg`` of type Pretrained names for a backbone.

    Args:
        backbone: The built backbone.
        init: The ``init_cfg``.
        force: Only warn of weights trained in another way.

    Raises:
        InputError: If they cannot be read, or do not fit the backbone.
    """
    state = _weights(init["checkpoint"])
    if init.get("prefix"):
        state = below(state, init["prefix"].rstrip(".") + ".")
    fit.check_backbone(backbone, state, init["checkpoint"], _REMEDY, force=force)


def _weights(reference: str) -> dict[str, Any]:
    return state_dict_of(weights.load_safely(reference))


def build_model(cfg: Config) -> nn.Module:
    """The model of a complete config, without its pretrained weights.

    Raises:
        InputError: If it cannot be built.
    """
    with building(cfg, "model"):
        return MODELS.build(cfg.model)
