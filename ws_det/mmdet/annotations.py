"""What MMDetection reads of COCO annotation files, for its datasets and evaluators."""

from __future__ import annotations

import os.path as osp
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmdet.datasets import CocoDataset, CocoPanopticDataset, LVISV05Dataset
from mmdet.evaluation import CocoMetric, CocoVideoMetric, LVISMetric
from mmdet.registry import DATASETS, METRICS

from ws_det.annotations import Mended, mend_annotations, mend_content
from ws_det.errors import InputError
from ws_det.masks import is_size
from ws_det.mmdet.images import turns
from ws_det.mmdet.left import check_indices, note_left
from ws_det.mmdet.nodes import dicts_of
from ws_det.mmdet.pipelines import check_polygons, image_loader, mask_loaders

_OF_BOXES = "a detector of boxes, such as faster-rcnn_r50_fpn_gn-ws-all_1x_coco"
_WITHOUT_MASKS = f"let the evaluator's metric be bbox, or take {_OF_BOXES}"


class Reading(NamedTuple):
    """How a run reads an annotation file.

    Attributes:
        place: Key of the config, ``"train_dataloader"`` or ``"val_evaluator"``.
        index: Of the dataset or evaluator among those there that read a file.
        path: Of the file.
        mended: It; the content of a file that is read as it is has been let go.
        maskless: Whether the dataset may load no masks, which are not needed and not all there.
    """

    place: str
    index: int
    path: str
    mended: Mended
    maskless: bool = False

    @classmethod
    def of(
        cls, place: str, index: int, path: str, mended: Mended, maskless: bool = False
    ) -> Reading:
        """With the content of a file that is changed alone: others are large."""
        kept = mended if mended.changed else mended._replace(content={})
        return cls(place, index, path, kept, maskless)


class Wants(NamedTuple):
    """What a part of a run wants of an annotation file.

    Attributes:
        training: Whether a model learns from it.
        masks: Whether it learns masks, or is judged by them.
        needed: Whether there has to be something to learn from, or to be judged by.
    """

    training: bool
    masks: bool
    needed: bool


def wants_of_training(dataset: Any, needed: bool) -> Wants:
    """What is wanted of the annotation file of a dataset to learn from."""
    return Wants(True, any(mask_loaders(dataset)), needed)


def wants_of_evaluation(evaluator: Any, path: str) -> Wants:
    """What is wanted of the annotation file of a dataset to be judged by.

    Args:
        evaluator: Config of all evaluators.
        path: Of the file.
    """
    judges = [node for node in dicts_of(evaluator) if judges_by_coco(node)]
    judges = [node for node in judges if is_same(node.get("ann_file") or path, path)]
    return Wants(False, any(map(_judges_masks, judges)), bool(judges))


def is_same(path: str, other: str) -> bool:
    """Whether two paths are of one file."""
    return osp.realpath(path) == osp.realpath(other)


def judges_by_coco(evaluator: Any) -> bool:
    """Whether a config is of an evaluator that judges by COCO's objects."""
    of_other_files = CocoVideoMetric, LVISMetric
    return _is(evaluator, METRICS, CocoMetric, of_other_files) and not evaluator.get("format_only")


def reads_coco(dataset: Any) -> bool:
    """Whether a config is of a dataset that reads COCO's objects; a user's own kind may do so."""
    return _is(dataset, DATASETS, CocoDataset, (CocoPanopticDataset, LVISV05Dataset))


def mend_of_dataset(
    dataset: Any,
    path: str,
    content: Mapping[str, Any],
    folder: str,
    classes: Sequence[str],
    wanted: Wants,
) -> Mended:
    """Mend what a dataset reads.

    Args:
        dataset: Its config.
        path: Of its annotation file.
        content: Of the file.
        folder: Of its images.
        classes: That are used.
        wanted: What for.

    Raises:
        InputError: As ``mend_annotations``, or for what MMDetection would leave out in silence.
    """
    loader = image_loader(dataset)
    mended = mend_content(
        content,
        path,
        folder if loader else None,
        training=wanted.training,
        masks=wanted.masks,
        classes=classes,
        without_masks=f"train {_OF_BOXES}" if wanted.training else _WITHOUT_MASKS,
        needed=wanted.needed or (wanted.training and bool(content.get("annotations"))),
        turn=turns(loader or {}),
    )
    _check_sizes(path, mended.content)
    if not wanted.training:
        check_indices(dataset, path, [image["id"] for image in mended.content["images"]])
        return mended
    check_polygons(dataset, path, mended.content)
    note = note_left(dataset, path, mended.content, classes, wanted.needed)
    return mended._replace(notes=mended.notes + note)


def mend_of_evaluator(evaluator: Any, path: str, classes: Sequence[str]) -> Mended:
    """Mend a file that an evaluator alone reads.

    Args:
        evaluator: Its config.
        path: Of the file.
        classes: That are used.

    Raises:
        InputError: As ``mend_annotations``.
    """
    masks = _judges_masks(evaluator)
    return mend_annotations(path, masks=masks, classes=classes, without_masks=_WITHOUT_MASKS)


def _is(node: Any, registry: Any, base: type, others: tuple[type, ...]) -> bool:
    kind = node.get("type")
    kind = registry.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and issubclass(kind, base) and not issubclass(kind, others)


def _judges_masks(evaluator: Any) -> bool:
    metric = evaluator.get("metric")
    return metric == "segm" or (isinstance(metric, (list, tuple)) and "segm" in metric)


def _check_sizes(path: str, content: Mapping[str, Any]) -> None:
    for image in content["images"]:
        if not is_size((image.get("height"), image.get("width"))):
            raise InputError(
                f"the image {image['id']} of {path} has no height and width: write them into the "
                f"file"
            )
