"""Keep the APs of a training and draw its curves, as ``curves.png`` in the work dir."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ws_det.curves import draw_curves
from ws_det.mmdet.report import read_metrics
from ws_det.report import ap_points, write_json


@HOOKS.register_module(force=True)
class CurvesHook(Hook):
    """Draw ``curves.png`` after each validation and at the end of training, on rank 0.

    MMEngine does not record at which iteration an AP was measured, and a checkpoint is saved
    before the validation of its iteration. So the APs are kept in ``curves.json``.
    """

    def __init__(self) -> None:
        self._aps: list[dict[str, Any]] = []

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Take up the APs of the run that is resumed; those of another run are past."""
        path = Path(runner.work_dir, "curves.json")
        kept = json.loads(path.read_text()) if path.is_file() else []
        self._aps = [point for point in kept if point["iter"] <= runner.iter]

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Keep the APs, also that there are none, and draw."""
        found = ap_points(read_metrics(metrics or {}, 0))
        self._aps.append({"iter": runner.iter, **found})
        write_json(Path(runner.work_dir, "curves.json"), self._aps)
        self.after_train(runner)

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Draw what is recorded so far; nothing if no loss is."""
        losses = {
            key[len("train/") :]: history.data[0]
            for key, history in runner.message_hub.log_scalars.items()
            if key.startswith("train/") and "loss" in key
        }
        if "loss" in losses:
            path = Path(runner.work_dir, "curves.png")
            draw_curves(losses, self._aps, runner.iter, path)
