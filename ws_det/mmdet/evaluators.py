"""A config's evaluators: which are taken over, what they need, how their numbers join."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from mmdet.evaluation import (
    CityScapesMetric,
    CocoMetric,
    CocoPanopticMetric,
    LVISMetric,
    VOCMetric,
)
from mmdet.registry import METRICS
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger

from ws_det.errors import InputError, first_line
from ws_det.evaluation.backends import choose
from ws_det.mmdet.metrics import CocoTwelveMetric
from ws_det.mmdet.nodes import dicts_of
from ws_det.report import KINDS

# What changes CocoMetric's numbers, and COCO's own do not have.
_THEIRS = ("iou_thrs", "metric_items", "proposal_nums")
# Built to try them: these take no files with `ann_file` None, and write none.
_BUILT = (CocoMetric, CocoTwelveMetric, LVISMetric, CocoPanopticMetric, VOCMetric)


def take_over(cfg: Config, collect_device: str | None) -> None:
    """Let COCO's box and mask evaluations give twelve numbers; every other one stays as it is.

    Args:
        cfg: The config, changed in place.
        collect_device: Of COCO's evaluations, if their default is not right.

    Raises:
        InputError: If an evaluation has what it does not know, or no back end.
    """
    for part in ("val", "test"):
        for node in dicts_of(cfg.get(f"{part}_evaluator")):
            kind = node.get("type")
            ours = kind in ("CocoTwelveMetric", CocoTwelveMetric)
            if not ours and kind not in ("CocoMetric", "mmdet.CocoMetric", CocoMetric):
                continue
            if collect_device:
                node["collect_device"] = collect_device
            unlike = _unlike_ours(node)
            if unlike and (ours or "backend" in node):
                raise InputError(
                    f"{part}_evaluator has backend or CocoTwelveMetric with {unlike}, which "
                    f"MMDetection's own evaluation alone knows: leave one of them out"
                )
            if not unlike:
                node["type"] = "CocoTwelveMetric"
                choose(node.get("backend", "auto"))  # or a run would end at its first evaluation


def _unlike_ours(node: Any) -> str:
    """What of an evaluation is not COCO's of boxes and masks."""
    metric = node.get("metric", "bbox")
    others = {*(metric if isinstance(metric, list | tuple) else [metric])} - {*KINDS}
    if others:
        return f"metric={sorted(map(str, others))[0]}"
    named = [key for key in _THEIRS if node.get(key) is not None]
    return named[0] if named else "format_only" if node.get("format_only") else ""


def check_evaluators(cfg: Config, parts: tuple[str, ...]) -> None:
    """Refuse what would end a run at its first evaluation.

    Args:
        cfg: The config, complete.
        parts: ``"val"``, ``"test"`` or both.

    Raises:
        InputError: If an evaluator cannot be built, lacks a package, or has not as many sets as
            its data.
    """
    for part in parts:
        for node in dicts_of(cfg.get(f"{part}_evaluator")):
            if "dataset_prefixes" in node:
                _check_sets(part, node, cfg[f"{part}_dataloader"].dataset)
            if "type" in node:
                _check(part, node)


def _check(part: str, node: Any) -> None:
    kind = METRICS.get(node["type"]) if isinstance(node["type"], str) else node["type"]
    try:
        if kind in _BUILT:
            kind(**{k: v for k, v in node.items() if k not in ("type", "_scope_", "ann_file")})
        elif kind is CityScapesMetric and not find_spec("cityscapesscripts"):  # it makes a folder
            raise ImportError("cityscapesscripts is not installed")
    except (AssertionError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{part}_evaluator of the config, a {kind.__name__}, cannot be built "
            f"({first_line(error)}): correct it or install what it needs"
        ) from error


def _check_sets(part: str, node: Any, dataset: Any) -> None:
    names, metrics = node["dataset_prefixes"], node.get("metrics")
    counts = [len(dataset.get("datasets") or [dataset]), len(names), len({*names})]
    if isinstance(metrics, list | tuple):
        counts.append(len(metrics))
    if len({*counts}) > 1 or not isinstance(metrics, list | tuple):
        raise InputError(
            f"{part}_evaluator needs a name of its own in dataset_prefixes and an evaluator in "
            f"metrics for each of the {counts[0]} datasets: correct them"
        )


class EveryNumber(Evaluator):
    """MMEngine's, which raises after the last image where two evaluators use one name.

    Here the names of the later one get a number: ``coco_2/bbox_mAP``.
    """

    def evaluate(self, size: int) -> dict[str, Any]:
        """The numbers of all evaluators by name."""
        numbers: dict[str, Any] = {}
        for metric in self.metrics:
            found = metric.evaluate(size) or {}
            place = 1
            while any(_numbered(key, place) in numbers for key in found):
                place += 1
            if place > 1:
                first = next(iter(found))
                MMLogger.get_current_instance().info(
                    f"two evaluators give {first}: the second one's is {_numbered(first, place)}"
                )
            numbers |= {_numbered(key, place): value for key, value in found.items()}
        return numbers


def _numbered(key: str, place: int) -> str:
    prefix, slash, name = key.rpartition("/")
    return key if place == 1 else f"{prefix}_{place}{slash}{name}"
