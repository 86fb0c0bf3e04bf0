"""Everything that can be checked before the first file is written."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import find_latest_checkpoint
from torch import nn

from ws_det.errors import InputError
from ws_det.mmdet import fit, weights
from ws_det.mmdet.data import check_data


def check_training(cfg: Config) -> None:
    """Check a complete config for training.

    Raises:
        InputError: For the first fault found, cheap checks first.
    """
    _check_writable(cfg.work_dir, "--work-dir")
    if cfg.optim_wrapper.get("type") == "AmpOptimWrapper" and not torch.cuda.is_available():
        raise InputError(
            "--amp needs a GPU, MMEngine's AmpOptimWrapper refuses to run without: leave it out"
        )
    check_data(cfg, ("train", "val"))
    model = _build(cfg)
    backbone_init = (cfg.model.get("backbone") or {}).get("init_cfg")
    for init in backbone_init if isinstance(backbone_init, list) else [backbone_init]:
        if init and init.get("type") == "Pretrained":
            fit.check_backbone(model.backbone, init["checkpoint"], init.get("prefix"))
    checkpoint = cfg.get("load_from")
    if cfg.get("resume"):
        checkpoint = checkpoint or find_latest_checkpoint(cfg.work_dir)
        if checkpoint:
            fit.check_whole(model, checkpoint)
    elif checkpoint:
        fit.check_start(model, checkpoint)


def check_test(cfg: Config, written: Sequence[str] = ()) -> None:
    """Check a complete config for testing ``cfg.load_from``.

    Args:
        cfg: The config.
        written: Other folders that the test will write to.

    Raises:
        InputError: For the first fault found.
    """
    for path in (cfg.work_dir, *written):
        _check_writable(path, "--work-dir, --out and --show-dir")
    weights.load_safely(cfg.load_from)  # a mistyped name must not wait for the data
    check_data(cfg, ("test",))
    fit.check_whole(_build(cfg), cfg.load_from)


def _check_writable(path: str, flag: str) -> None:
    """Try it: root passes every permission check, and read-only mounts fail only here."""
    target = Path(path).absolute()
    existing = next(p for p in (target, *target.parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({existing}: {error.strerror}): give another {flag}"
        ) from None


def _build(cfg: Config) -> nn.Module:
    try:
        # A run before in the same process leaves its scope behind.
        with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmdet")):
            return MODELS.build(cfg.model)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        reason = str(error).strip("'\"").splitlines()[0]
        raise InputError(f"the config's model cannot be built ({reason}): correct it") from error
