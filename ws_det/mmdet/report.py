"""What a user sees of an evaluation while it runs and when it ends."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from glob import escape, glob
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner

from ws_det.masks import is_finite
from ws_det.mmdet.metrics import STATS
from ws_det.report import (
    COLUMNS,
    KINDS,
    ap_points,
    flat_values,
    report_of,
    table,
    together,
    write_json,
)

_SECONDS = 10  # between two progress lines


@HOOKS.register_module(force=True)
class CocoReportHook(Hook):
    """Log progress of long evaluations and their table; write it to ``coco_metrics.json``.

    Attributes:
        report: ``{"bbox": {"AP": ..., ...}, "segm": {...}, "images": N}`` of the last
            evaluation, see ``ws_det.report``; empty before the first.
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
        self._report(runner, metrics or {}, runner.val_loop)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Report a test."""
        self._report(runner, metrics or {}, runner.test_loop)

    def _progress(self, runner: Runner, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said >= _SECONDS:
            self._said = now
            left = timedelta(seconds=round((now - self._start) / done * (total - done)))
            runner.logger.info(f"evaluating: {done}/{total} batches, about {left} left")

    def _report(self, runner: Runner, metrics: Mapping[str, Any], loop: BaseLoop) -> None:
        self.report = read_metrics(metrics, *_images(loop))
        if not self.report or runner.rank != 0:
            return
        write_json(Path(runner.work_dir, "coco_metrics.json"), self.report)
        if ap_points(self.report):
            runner.logger.info(f"COCO evaluation\n{table(self.report)}")


def read_metrics(
    metrics: Mapping[str, Any], images: int, of_sets: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """The report of what evaluators gave, see ``ws_det.report``; no number is lost.

    Args:
        metrics: By the names that MMEngine has: ``coco/bbox_mAP``, and ``set/coco/bbox_mAP`` of
            a ``MultiDatasetsEvaluator``. Each prefix with COCO's numbers is a set of its own.
        images: How many were evaluated.
        of_sets: How many of each set, if there are several.
    """
    by_prefix: dict[str, dict[str, Any]] = {"": {}}
    for key, value in metrics.items():
        prefix, _, name = key.rpartition("/")
        by_prefix.setdefault(prefix, {})[name] = value
    read = {prefix: _read(prefix, values) for prefix, values in by_prefix.items()}
    if sum(bool(kinds) for kinds, _, _ in read.values()) < 2:
        kinds, classes, others = (
            {name: value for part in parts for name, value in part.items()}
            for parts in zip(*read.values())
        )
        return report_of(kinds, images, others, classes)  # one set, whoever evaluates it
    counts = dict.fromkeys(read, images)
    for name, count in (of_sets or {}).items():
        counts |= {p: count for p in read if f"{p}/".startswith(f"{name}/")}
    return together(
        {p: report_of(kinds, counts[p], rest, aps) for p, (kinds, aps, rest) in read.items()}
    )


def _read(prefix: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """COCO's numbers by kind, the APs of classes by kind, and all others by their whole name."""
    kinds: dict[str, dict[str, float]] = {}
    classes: dict[str, dict[str, float]] = {}
    others: dict[str, Any] = {}
    numbers = {name: value for name, value in flat_values(values).items() if is_finite(value)}
    for name, value in values.items():
        kind, _, stat = name.partition("_")
        if kind in KINDS and {name, f"{kind}_{STATS[0]}"} <= numbers.keys():
            if stat in STATS:
                kinds.setdefault(kind, {})[COLUMNS[STATS.index(stat)]] = numbers[name]
                continue
            if stat.endswith("_mAP"):
                classes.setdefault(kind, {})[stat.removesuffix("_mAP")] = numbers[name]
                continue
        if not any(name.removesuffix("_precision") in aps for aps in classes.values()):
            others[f"{prefix}/{name}" if prefix else name] = value
    return kinds, classes, others


def _images(loop: BaseLoop) -> tuple[int, dict[str, int]]:
    """How many images were evaluated, in all and of each set."""
    dataset = loop.dataloader.dataset
    ends = [0, *getattr(dataset, "cumulative_sizes", ())]
    names = getattr(loop.evaluator, "dataset_prefixes", ())
    return len(dataset), {n: end - start for n, start, end in zip(names, ends, ends[1:])}


def result_of(runner: Runner, loop: BaseLoop | None) -> dict[str, Any]:
    """What a tool says of a run.

    Args:
        runner: It has run.
        loop: Of its last evaluation, if there was any.

    Returns:
        The report of ``CocoReportHook``, the ``work_dir``, and ``files``: what to say of those
        with results. Empty on every rank but the first.
    """
    if runner.rank != 0:
        return {}
    hook = next(hook for hook in runner.hooks if isinstance(hook, CocoReportHook))
    files = [f"numbers in {runner.work_dir}/coco_metrics.json"] if hook.report else []
    for metric in loop.evaluator.metrics if loop else ():
        prefix = getattr(metric, "outfile_prefix", None)
        files += [f"results in {path}" for path in sorted(glob(f"{escape(prefix or ' ')}.*"))]
    return {**hook.report, "work_dir": runner.work_dir, "files": files}
