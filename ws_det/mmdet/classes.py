"""The classes of a config: those of its datasets, of its heads, and of the annotation files."""

from __future__ import annotations

import colorsys
import os.path as osp
from collections.abc import Sequence
from typing import Any

from mmdet.registry import DATASETS

from ws_det.coco import category_names, read_annotations
from ws_det.errors import InputError
from ws_det.mmdet.heads import check_heads, check_stuff, set_classes


def take_classes(model: Any, datasets: Sequence[Any], first: Any, path: str) -> None:
    """Let an annotation file name the classes of a model and of its datasets.

    Args:
        model: The config of the model, changed in place.
        datasets: All dataset configs, changed in place.
        first: The one among them that the file is of.
        path: Of the file.

    Raises:
        InputError: If the file is missing or unreadable, or the model cannot have its classes.
    """
    things, stuff = _names(model, path)
    set_classes(model, len(things), len(stuff))
    names = things + stuff
    if names == list(classes_of(first)):
        return  # keep the config's own words and colours
    colors = [colorsys.hsv_to_rgb(i * 0.618 % 1, 0.8, 1) for i in range(len(names))]
    palette = [tuple(round(255 * channel) for channel in color) for color in colors]
    for dataset in datasets:
        dataset.metainfo = dict(classes=tuple(names), palette=palette)
        if stuff:
            dataset.metainfo.update(thing_classes=tuple(things), stuff_classes=tuple(stuff))


def classes_of(dataset: Any, key: str = "classes") -> Sequence[str]:
    """The classes of a dataset config; a panoptic one has thing and stuff classes too."""
    given = (dataset.get("metainfo") or {}).get(key)
    return given or DATASETS.get(dataset.type).METAINFO.get(key, ())


def check_categories(
    model: Any, dataset: Any, path: str, names: Sequence[str], is_first: bool
) -> None:
    """Check an annotation file's categories against the config.

    Args:
        model: The config of the model.
        dataset: That of the dataset.
        path: Of the annotation file.
        names: Its categories.
        is_first: Whether a data root would take the classes from it.

    Raises:
        InputError: If they are others, or in another order.
    """
    classes = classes_of(dataset)
    absent = [name for name in classes if name not in names]
    if absent:
        way_out = "give all annotation files of the set the same categories"
        if is_first:
            way_out = "pass --data-root FOLDER to take the set's own"
        raise InputError(
            f"the config has {len(absent)} categories that {path} does not have "
            f"({_some(absent)}): {way_out}"
        )
    things, stuff = (classes_of(dataset, f"{kind}_classes") for kind in ("thing", "stuff"))
    check_heads(model, path, len(things or classes), len(stuff))
    named = [name for name in names if name in classes]
    if named != list(classes):
        raise InputError(
            f"{path} lists its categories in another order ({_some(named)}) than the "
            f"classes are in ({_some(classes)}), and mmdet takes labels from each "
            f"file's order: write all annotation files with the categories in one order"
        )


def _names(model: Any, path: str) -> tuple[list[str], list[str]]:
    """The categories of a file, those of stuff apart; only a panoptic one has any."""
    check_stuff(model, path, panoptic=osp.isfile(path))
    annotations = read_annotations(path)
    panoptic = any("segments_info" in entry for entry in annotations.get("annotations", []))
    check_stuff(model, path, panoptic)
    names = category_names(annotations)
    if not panoptic:
        return names, []
    isthing = [bool(category.get("isthing", True)) for category in annotations["categories"]]
    if isthing != sorted(isthing, reverse=True):
        raise InputError(
            f"{path} lists stuff before things, and mmdet takes labels from the file's order: "
            f"write all annotation files with the categories of things first"
        )
    return names[: sum(isthing)], names[sum(isthing) :]


def _some(names: Sequence[Any]) -> str:
    return ", ".join([*map(str, names[:3]), "..."])
