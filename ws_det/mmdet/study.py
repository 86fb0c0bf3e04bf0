"""Train the small Mask R-CNN of the demo with any norm, for the studies of ws_det.study."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ws_det.errors import InputError
from ws_det.mmdet import runner
from ws_det.norms import EstBatchNorm2d

CONFIG = "mask-rcnn_r18_fpn_bn_2xb1-demo_shapes"
_PARTS = ("backbone", "neck", "roi_head.bbox_head", "roi_head.mask_head")


def train(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train and evaluate.

    Args:
        settings: ``conv_cfg`` (a dict or None) and ``norm_cfg`` of MMDetection, ``batch``,
            ``images`` (seen in training), ``lr``, ``seed``, ``data`` (folder of a shapes set,
            relative to the run's), and if EstBN's rate is to follow the learning rate ``rate``.
        folder: Of the run.

    Returns:
        ``box_ap`` and ``mask_ap``, 0 where the training had to stop at values that are not finite,
        and ``stopped`` is then true.
    """
    options = config_options(settings)
    root = str(folder.parent / settings["data"])
    work_dir = str(folder / "work")
    try:
        report = runner.train(CONFIG, work_dir=work_dir, cfg_options=options, data_root=root)
    except InputError:
        if not list(Path(work_dir).glob("nonfinite_iter_*.json")):
            raise
        return {"box_ap": 0.0, "mask_ap": 0.0, "stopped": True}
    finally:
        for path in Path(work_dir).glob("*.pth"):
            path.unlink()  # many runs, and nobody asks for the weights
    aps = {"box_ap": report["bbox"]["AP"], "mask_ap": report["segm"]["AP"]}
    return {name: 0.0 if math.isnan(ap) else ap for name, ap in aps.items()} | {"stopped": False}


def config_options(settings: dict[str, Any]) -> dict[str, Any]:
    """What the settings change in the demo's config, by dotted key."""
    iterations = settings["images"] // settings["batch"]
    warmup = max(1, iterations // 10)
    options: dict[str, Any] = {
        "train_dataloader.batch_size": settings["batch"],
        "train_cfg.max_iters": iterations,
        "train_cfg.val_interval": iterations,
        "default_hooks.checkpoint.interval": iterations,
        "optim_wrapper.optimizer.lr": settings["lr"],
        "param_scheduler": [
            dict(type="LinearLR", start_factor=0.01, by_epoch=False, end=warmup),
            dict(type="CosineAnnealingLR", by_epoch=False, begin=warmup, end=iterations, eta_min=0),
        ],
        "randomness.seed": settings["seed"],
        "custom_hooks": [dict(type="SyncEstBNHook")],
    }
    if "rate" in settings:
        options["custom_hooks"].insert(0, dict(type="FollowLearningRateHook", **settings["rate"]))
    for part in _PARTS:
        options[f"model.{part}.conv_cfg"] = settings["conv_cfg"]
        options[f"model.{part}.norm_cfg"] = dict(settings["norm_cfg"], requires_grad=True)
    return options


@HOOKS.register_module(force=True)
class FollowLearningRateHook(Hook):
    """Let EstBN's rate follow the learning rate: ``momentum * lr / base lr`` in each step.

    Args:
        warmup: Whether to follow it in its warm-up too; if not, the rate is full until the
            learning rate is at its base.
    """

    def __init__(self, warmup: bool) -> None:
        self.warmup = warmup

    def before_train(self, runner: Runner) -> None:
        """Remember the layers and their rates."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        layers = [m for m in model.modules() if isinstance(m, EstBatchNorm2d)]
        self._layers = [(layer, layer.momentum) for layer in layers]
        self._highest = 0.0

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Set the rates."""
        group = runner.optim_wrapper.optimizer.param_groups[0]
        self._highest = max(self._highest, group["lr"])
        share = group["lr"] / (group["initial_lr"] if self.warmup else self._highest)
        for layer, momentum in self._layers:
            layer.momentum = momentum * share
