"""What a user sees of an evaluation while it runs and when it ends."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ws_det.mmdet.metrics import STATS
from ws_det.report import COLUMNS, KINDS, table, write_json

_SECONDS = 10  # between two progress lines


@HOOKS.register_module(force=True)
class CocoReportHook(Hook):
    """Log progress of long evaluations and their table; write it to ``coco_metrics.json``.

    Attributes:
        report: ``{"bbox": {"AP": ..., ...}, "segm": {...}, "images": N}`` of the last
            evaluation; empty before the first.
    """

    def __init__(self) -> None:
        self.report: dict[str, Any] = {}

    def before_val_epoch(self, runner: Runner) -> None:
        """Start the clock."""
        self._start = self._said = time.monotonic()

    before_test_epoch = before_val_epoch

    def after_val_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        """Say how far validation is."""
        self._progress(runner, batch_idx + 1, len(runner.val_dataloader))

    def after_test_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        """Say how far the test is."""
        self._progress(runner, batch_idx + 1, len(runner.test_dataloader))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Report a validation."""
        self._report(runner, metrics or {}, len(runner.val_dataloader.dataset))

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Report a test."""
        self._report(runner, metrics or {}, len(runner.test_dataloader.dataset))

    def _progress(self, runner: Runner, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said >= _SECONDS:
            self._said = now
            left = timedelta(seconds=round((now - self._start) / done * (total - done)))
            runner.logger.info(f"evaluating: {done}/{total} batches, about {left} left")

    def _report(self, runner: Runner, metrics: Mapping[str, float], images: int) -> None:
        self.report = {
            kind: {c: metrics[f"coco/{kind}_{s}"] for c, s in zip(COLUMNS, STATS)}
            for kind in KINDS
            if f"coco/{kind}_{STATS[-1]}" in metrics
        }
        if self.report and runner.rank == 0:
            runner.logger.info(f"COCO evaluation of {images} images\n{table(self.report)}")
            self.report["images"] = images
            write_json(Path(runner.work_dir, "coco_metrics.json"), self.report)
        self.report["images"] = images
