"""The evaluators of a config: ours for COCO's boxes and masks, Detectron2's for the rest."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple
from urllib.parse import quote

from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig
from torch import nn

from ws_det.detectron2.evaluator import COCO_KEYPOINTS, CocoTwelveEvaluator
from ws_det.detectron2.recipe import LazyRecipe, Recipe
from ws_det.errors import InputError

_PACKAGES = {
    COCOPanopticEvaluator: "panopticapi",
    CityscapesInstanceEvaluator: "cityscapesscripts",
    CityscapesSemSegEvaluator: "cityscapesscripts",
    LVISEvaluator: "lvis",
}


class Planned(NamedTuple):
    """An evaluator that is not built yet.

    Attributes:
        kind: Its class.
        build: Called with the evaluations that the model has, see ``tasks_of``.
        sigmas: Of keypoints, where COCO's are not used.
    """

    kind: type
    build: Callable[[Sequence[str] | None], Any]
    sigmas: Sequence[float] = ()


def plan(recipe: Recipe, name: str, suffix: str = "") -> list[Planned]:
    """The evaluators of a test set.

    Those of a LazyConfig's ``dataloader.evaluator``; where there are none, and in a yaml config,
    those of Detectron2's ``tools/train_net.py`` for the set's ``evaluator_type``.

    Args:
        recipe: Of the config.
        name: Of a registered set.
        suffix: Of the folder ``inference``. Several sets have one each below it.

    Raises:
        InputError: If there is none for this type of set.
    """
    below = f"/{quote(name, safe='')}" if len(recipe.test_sets) > 1 else ""
    folder = f"{recipe.output_dir}/inference{suffix}{below}"
    if isinstance(recipe, LazyRecipe):
        cfg = copy.deepcopy(recipe.cfg)
        cfg.dataloader.test.dataset.names = name  # evaluators refer to it
        if "evaluator" in cfg.dataloader:
            nodes = _nodes(cfg.dataloader.evaluator)
            return [_of_node(node, name, folder, below) for node in nodes]
        return _of_type(name, folder, ())
    return _of_type(name, folder, recipe.cfg.TEST.KEYPOINT_OKS_SIGMAS)


def tasks_of(model: nn.Module) -> list[str] | None:
    """What COCO's evaluation has of a model; None if only its predictions tell."""
    heads = getattr(getattr(model, "module", model), "roi_heads", None)
    kinds = {"segm": "mask_on", "keypoints": "keypoint_on"}
    there = [kind for kind, name in kinds.items() if getattr(heads, name, False)]
    return None if heads is None else ["bbox", *there]


def check_evaluators(recipe: Recipe) -> list[str]:
    """Refuse what would end a run at its first evaluation.

    Args:
        recipe: Of the config.

    Returns:
        What is not evaluated, a line each.

    Raises:
        InputError: If a package is missing, or keypoints have another number of sigmas.
    """
    notes, wants = [], recipe.wants()
    count = wants.num_keypoints if wants.keypoints else None
    for name in recipe.test_sets:
        for kind, _, sigmas in plan(recipe, name):
            package = next((p for cls, p in _PACKAGES.items() if issubclass(kind, cls)), None)
            if package and not find_spec(package):
                raise InputError(
                    f"{kind.__name__}, which evaluates {name}, needs the package {package}, "
                    f"which is not installed: install it"
                )
            known = len(sigmas) or COCO_KEYPOINTS
            if not count or count == known or not issubclass(kind, COCOEvaluator):
                continue
            option = "TEST.KEYPOINT_OKS_SIGMAS or kpt_oks_sigmas of dataloader.evaluator"
            if sigmas or kind is not CocoTwelveEvaluator:
                raise InputError(
                    f"there are {known} sigmas for {count} keypoints: give one for each as {option}"
                )
            notes.append(f"keypoints are not evaluated without a sigma for each as {option}")
    return notes


def _of_type(name: str, folder: str, sigmas: Sequence[float]) -> list[Planned]:
    kind = MetadataCatalog.get(name).get("evaluator_type", "coco")  # a user's own may have none
    panoptic = kind == "coco_panoptic_seg"
    planned = []
    if kind == "sem_seg" or panoptic:
        planned.append(_theirs(SemSegEvaluator, name, output_dir=folder))
    if kind == "coco" or panoptic:
        planned.append(_ours(sigmas, dataset_name=name, output_dir=folder))
    if panoptic:
        planned.append(_theirs(COCOPanopticEvaluator, name, folder))
    if kind == "lvis":
        planned.append(_theirs(LVISEvaluator, name, output_dir=folder))
    others = {
        "cityscapes_instance": CityscapesInstanceEvaluator,
        "cityscapes_sem_seg": CityscapesSemSegEvaluator,
        "pascal_voc": PascalVOCDetectionEvaluator,
    }
    if kind in others:
        planned.append(_theirs(others[kind], name))
    if not planned:
        raise InputError(
            f"there is no evaluator for {name}, whose evaluator_type is {kind!r}: name one as "
            f"dataloader.evaluator of a LazyConfig"
        )
    return planned


def _of_node(node: Any, name: str, folder: str, below: str) -> Planned:
    """What a LazyConfig has; an evaluator that was built already stays it."""
    if not isinstance(node, DictConfig):
        return Planned(type(node), lambda tasks: node)
    kind, given = node["_target_"], {key: node[key] for key in node if key != "_target_"}
    kind = locate(kind) if isinstance(kind, str) else kind
    if given.get("output_dir"):
        given["output_dir"] = node.output_dir = f"{node.output_dir}{below}"
    if kind is COCOEvaluator and given.get("max_dets_per_image") in (None, 100):
        used = ("tasks", "distributed", "kpt_oks_sigmas")
        more = {key: instantiate(given[key]) for key in used if key in given}
        return _ours(
            more.pop("kpt_oks_sigmas", ()),
            dataset_name=given.get("dataset_name", name),
            output_dir=given.get("output_dir") or folder,
            **more,
        )
    return Planned(kind, lambda tasks: instantiate(node), given.get("kpt_oks_sigmas") or ())


def _ours(sigmas: Sequence[float], tasks: Any = None, **arguments: Any) -> Planned:
    def build(of_model: Sequence[str] | None) -> CocoTwelveEvaluator:
        return CocoTwelveEvaluator(
            tasks=tasks or of_model, kpt_oks_sigmas=tuple(sigmas), **arguments
        )

    return Planned(CocoTwelveEvaluator, build, sigmas)


def _theirs(kind: type, *arguments: Any, **keywords: Any) -> Planned:
    return Planned(kind, lambda tasks: kind(*arguments, **keywords))


def _nodes(node: Any) -> Iterator[Any]:
    """The evaluators of a list, and of Detectron2's DatasetEvaluators."""
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    if isinstance(node, list | tuple | ListConfig):
        for child in node:
            yield from _nodes(child)
    elif target and (locate(target) if isinstance(target, str) else target) is DatasetEvaluators:
        yield from _nodes(node.evaluators)
    elif node is not None:
        yield node
