"""What a user sees of an evaluation: progress, the COCO table, its JSON, one closing line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ws_det.mmdet.metrics import STATS

COLUMNS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
KINDS = {"bbox": "box", "segm": "mask"}
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


def table(report: Mapping[str, Any]) -> str:
    """The twelve numbers of boxes and masks in columns."""
    rows = [("", *COLUMNS)]
    rows += [
        (word, *(f"{report[kind][column]:.3f}" for column in COLUMNS))
        for kind, word in KINDS.items()
        if kind in report
    ]
    return "\n".join("".join(f"{cell:>7}" for cell in row) for row in rows)


def closing_line(report: Mapping[str, Any]) -> str:
    """``box AP 0.512, mask AP 0.556 (50 images)``."""
    evaluated = [kind for kind in KINDS if kind in report]
    parts = [f"{KINDS[kind]} AP {report[kind]['AP']:.3f}" for kind in evaluated]
    return f"{', '.join(parts)} ({report['images']} images)" if parts else "no COCO evaluation ran"


def write_json(path: Path, content: Any) -> None:
    """Write a whole file or none: beside, then renamed."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(beside, path)
