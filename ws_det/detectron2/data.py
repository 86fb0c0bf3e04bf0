"""Register COCO-format sets with Detectron2, and check them before anything is written."""

from __future__ import annotations

import os
import os.path as osp
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from ws_det.coco import read_annotations
from ws_det.detectron2.mapper import NamedMapper as NamedMapper  # its name is public here too
from ws_det.detectron2.set_files import Findings, Wants, check_set
from ws_det.errors import InputError
from ws_det.mending.entries import mend_categories
from ws_det.mending.tally import Tally

PARTS = ("train", "val")
DATA_ROOT = "data_root"  # what the sets below --data-root are called


def image_names(batch: Sequence[dict[str, Any]]) -> list[str]:
    """Files and ids of a model's inputs."""
    return [f"{image.get('file_name')} (id {image.get('image_id')})" for image in batch]


def register_set(root: str, name: str) -> tuple[str, str]:
    """Register ``<name>_train`` and ``<name>_val`` of a COCO-format folder.

    The folder has COCO's own names: ``annotations/instances_{train,val}2017.json`` and
    ``{train,val}2017/``. Registering again moves the names to the new folder.

    Args:
        root: The folder; it is read only when the set is used.
        name: What to call it.

    Returns:
        The two names.
    """
    names = tuple(f"{name}_{part}" for part in PARTS)
    for part, registered in zip(PARTS, names):
        if registered in DatasetCatalog:
            DatasetCatalog.remove(registered)
            MetadataCatalog.remove(registered)
        annotations = osp.join(root, "annotations", f"instances_{part}2017.json")
        register_coco_instances(registered, {}, annotations, osp.join(root, f"{part}2017"))
    return names


def category_names(name: str) -> list[str] | None:
    """Class names of a registered set in the order of Detectron2's labels, that of their ids.

    Args:
        name: Of the set.

    Returns:
        The names, or None if the set is not in COCO's format.

    Raises:
        InputError: If no set has that name, or its annotation file is missing or damaged.
    """
    _check_registered(name)
    path = MetadataCatalog.get(name).get("json_file")
    if path is None:
        return None
    categories = mend_categories(read_annotations(path)["categories"], Tally(path))
    return _names(path, categories)


def check_sets(
    names: Sequence[str], num_classes: Sequence[int], wants: Wants | None = None
) -> Findings:
    """Check annotation files, categories and that every image file exists.

    Args:
        names: Registered sets, the first is the one that labels are taken from.
        num_classes: Of each head.
        wants: What else the config wants of them; by default they are evaluated by boxes.

    Returns:
        What was found, for ``write_copies``.

    Raises:
        InputError: For the first fault found.
    """
    wants = wants or Wants(test_sets=names)
    found = Findings({}, {}, [], {})
    first: tuple[str, list[str]] | None = None
    empty = 0
    for name in dict.fromkeys(names):
        _check_registered(name)
        content = check_set(name, wants, max(num_classes, default=None), found)
        if content is None:
            continue
        path = MetadataCatalog.get(name).json_file
        own = _names(path, content["categories"])
        wrong = [count for count in num_classes if count != len(own)]
        if wrong:
            way_out = "pass --data-root FOLDER, which sets both"
            if name.startswith(f"{DATA_ROOT}_"):
                way_out = "give both annotation files the same categories, and no option another"
            raise InputError(
                f"num_classes={wrong[0]} of the config's model does not match the {len(own)} "
                f"categories of {path}: {way_out}"
            )
        first = first or (name, own)
        if own != first[1]:
            raise InputError(
                f"{path} has other categories ({', '.join(own[:3])}, ...) than {first[0]} "
                f"({', '.join(first[1][:3])}, ...): use sets with the same ones"
            )
        things = content.get("annotations", [])
        empty += name in wants.train_sets and not any(map(_is_learned, things))
    if 0 < len(set(wants.train_sets)) == empty:
        raise InputError(
            f"the sets {', '.join(wants.train_sets)} have nothing to learn from: correct their "
            f"annotation files"
        )
    return found


def _is_learned(thing: dict[str, Any]) -> bool:
    return not thing.get("iscrowd") and min(thing["bbox"][2:]) > 0


def _check_registered(name: str) -> None:
    if name not in DatasetCatalog:
        raise InputError(
            f"no data set is registered as {name!r}: give --data-root FOLDER, or register it in "
            f"the config"
        )


def _names(path: str, categories: Sequence[dict[str, Any]]) -> list[str]:
    try:
        ordered = sorted(categories, key=lambda category: category["id"])
    except TypeError:
        raise InputError(f"the categories of {path} have no ids of one type: correct it") from None
    return [str(category["name"]) for category in ordered]


# Where Detectron2 looks for its own sets too.
register_set(osp.join(os.getenv("DETECTRON2_DATASETS", "datasets"), "shapes"), "shapes")
