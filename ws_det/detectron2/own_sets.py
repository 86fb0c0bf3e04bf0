"""Sets of the user's own functions: what their dicts leave out, and what is wrong with them."""

from __future__ import annotations

import os.path as osp
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode

from ws_det.detectron2.images import check_kinds
from ws_det.detectron2.mapper import learned, mask_fault
from ws_det.errors import InputError, first_line
from ws_det.images import image_size

_BOX = ("bbox", "bbox_mode", "category_id")
_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS)


def is_own(name: str) -> bool:
    """Whether a set is not one that Detectron2 itself reads from a file in COCO's format."""
    function, theirs = DatasetCatalog[name], register_coco_instances
    inside = getattr(function, "__qualname__", "").startswith(f"{theirs.__name__}.<locals>")
    return not (inside and function.__module__ == theirs.__module__)


def complete(function: Callable[[], Any]) -> Any:
    """Call a set's function and add what its dicts may leave out.

    Detectron2 trains without ``height``, ``width`` and ``image_id``, and needs them elsewhere. The
    size is that of the image file; the numbers are those that Detectron2's own conversion to COCO's
    format gives.

    Args:
        function: As registered.

    Returns:
        Dataset dicts, or whatever else the function returns.
    """
    dicts = function()
    if not isinstance(dicts, list) or not all(isinstance(entry, dict) for entry in dicts):
        return dicts  # a dataset of torch's
    truth = {"annotations": []} if any("annotations" in entry for entry in dicts) else {}
    return [truth | {"image_id": n} | _size(entry) | entry for n, entry in enumerate(dicts)]


def check_own_set(
    name: str, training: bool, testing: bool, num_classes: int | None, mask_format: str | None
) -> list[str]:
    """Check the dicts of a set for Detectron2's own mapper, and refuse only what that refuses.

    Args:
        name: Of the set.
        training: Whether a model learns from it.
        testing: Whether it is evaluated on.
        num_classes: Of the model.
        mask_format: That of the loader, if the model learns masks.

    Returns:
        Notes.

    Raises:
        InputError: For the first fault found.
    """
    try:
        dicts = complete(DatasetCatalog[name])
    except InputError:
        raise
    except Exception as error:  # the user's own code
        raise InputError(
            f"the function of the set {name} fails ({type(error).__name__}: {first_line(error)}): "
            f"correct it"
        ) from error
    if not isinstance(dicts, list):
        return []
    if not dicts:
        raise InputError(f"the set {name} is empty: let its function return dataset dicts")
    files = [entry.get("file_name") for entry in dicts if isinstance(entry, dict)]
    absent = [file for file in files if isinstance(file, str) and not _is_there(file)]
    if absent:
        raise InputError(
            f"the image {absent[0]} of the set {name} does not exist ({len(absent)} of "
            f"{len(dicts)} are missing): complete the folder"
        )
    check_kinds(file for file in files if isinstance(file, str) and "://" not in file)
    if testing:
        _check_ids(name, dicts)
    has_truth = training and any("annotations" in entry for entry in dicts)
    return _check_objects(name, dicts, num_classes, mask_format) if has_truth else []


def _size(entry: dict[str, Any]) -> dict[str, int]:
    file = entry.get("file_name")
    if {"height", "width"} <= entry.keys() or not isinstance(file, str) or not osp.isfile(file):
        return {}
    height, width = image_size(file)
    return {"height": height, "width": width}


def _is_there(file: str) -> bool:
    return "://" in file or osp.isfile(file)


def _check_ids(name: str, dicts: Sequence[dict[str, Any]]) -> None:
    seen: set[Any] = set()
    for entry in dicts:
        if entry["image_id"] in seen:
            raise InputError(
                f"two images of the set {name} have the image_id {entry['image_id']!r}: give each "
                f"its own, or it is evaluated once"
            )
        seen.add(entry["image_id"])


def _check_objects(
    name: str, dicts: Sequence[dict[str, Any]], num_classes: int | None, mask_format: str | None
) -> list[str]:
    total, flat = 0, []
    for entry in dicts:
        objects, image = learned(entry), f"the image {entry.get('file_name')} of the set {name}"
        for thing in objects:
            fault = _fault(thing, num_classes)
            if fault:
                raise InputError(f"{image} has an annotation {fault}: correct it")
            total += 1
            flat += [] if min(_sides(thing)) > 0 else [entry.get("file_name")]
        fault = mask_fault(objects, mask_format) if mask_format else None
        if fault:
            raise InputError(f"{image} {fault}")
    if total == len(flat):
        raise InputError(
            f"the set {name} has nothing to learn from ({total} annotations, none with a box that "
            f"has two sides): give it objects"
        )
    if not flat:
        return []
    return [
        f"{len(flat)} of {total} boxes of {name} have no positive width and height (first in "
        f"{flat[0]}): Detectron2 turns or leaves them out"
    ]


def _fault(thing: dict[str, Any], num_classes: int | None) -> str | None:
    missing = [key for key in _BOX if key not in thing]
    if missing:
        return f"without {missing[0]!r}"
    if thing["bbox_mode"] not in _MODES:
        return f"with the bbox_mode {thing['bbox_mode']!r}, which Detectron2 does not support"
    try:
        _sides(thing)
        label = int(thing["category_id"])
    except (TypeError, ValueError):
        return f"with the bbox {thing['bbox']!r} and the category_id {thing['category_id']!r}"
    if num_classes and not 0 <= label < num_classes:
        return f"of the class {label}, and the config's model has {num_classes}, from 0"
    return None


def _sides(thing: dict[str, Any]) -> tuple[float, float]:
    """Width and height of a box."""
    x, y, right, bottom, *_ = (side + 0.0 for side in thing["bbox"])  # a text raises
    return (right - x, bottom - y) if thing["bbox_mode"] == BoxMode.XYXY_ABS else (right, bottom)
