"""Read COCO annotation files, and check that they and their images are there and whole."""

from __future__ import annotations

import json
import os.path as osp
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ws_det.errors import InputError
from ws_det.images import image_path
from ws_det.masks import is_mask, is_size

_DATA_ROOT = "it has to be in the set's folder, that of --data-root; or give its name in the config"


def read_annotations(path: str, way_out: str = _DATA_ROOT) -> dict[str, Any]:
    """Read a COCO annotation file.

    Args:
        path: Of the file.
        way_out: What the user can do if it does not exist, the end of the message.

    Raises:
        InputError: If it is missing, no complete JSON, or has no images or categories.
    """
    return read_content(path, way_out)[0]


def read_content(path: str, way_out: str = _DATA_ROOT) -> tuple[dict[str, Any], bool]:
    """Read a COCO annotation file in any encoding of JSON.

    Args:
        path: Of the file.
        way_out: What the user can do if it does not exist, the end of the message.

    Returns:
        Its content, and whether it is UTF-8 without a byte order mark: no framework reads another.

    Raises:
        InputError: As of :func:`read_annotations`.
    """
    if not osp.isfile(path):
        raise InputError(f"the annotation file {path} does not exist: {way_out}")
    try:
        raw = Path(path).read_bytes()
        annotations = json.loads(raw)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"the annotation file {path} is truncated or no JSON ({error}): copy it again"
        ) from None
    check_annotations(annotations, f"the annotation file {path}")
    return annotations, json.detect_encoding(raw) == "utf-8"


def check_annotations(annotations: Any, name: str) -> None:
    """Check that images and categories are there.

    Args:
        annotations: What was read.
        name: What to call it in the message.

    Raises:
        InputError: If they are not.
    """
    for key, one, field in (("images", "image", "file_name"), ("categories", "category", "name")):
        entries = annotations.get(key) if isinstance(annotations, Mapping) else None
        if not isinstance(entries, list) or not entries:
            raise InputError(f"{name} has no {key!r} list: it must be in COCO's format")
        for place, entry in enumerate(entries, 1):
            there = entry if isinstance(entry, Mapping) else {}
            # LVIS names its images by their address alone.
            is_named = field in there or (key == "images" and "coco_url" in there)
            lacking = [field] * (not is_named) + ["id"] * ("id" not in there)
            if lacking:
                raise InputError(
                    f"{name} has {key} without {lacking[0]!r}, the first is number {place} of the "
                    f"list: give that {one} its {lacking[0]!r}"
                )
    if not all(isinstance(category["name"], (str, int)) for category in annotations["categories"]):
        raise InputError(f"{name} has a category whose 'name' is no text: correct it")
    things = annotations.get("annotations", [])
    if not isinstance(things, list) or not all(isinstance(thing, dict) for thing in things):
        raise InputError(f"{name} has 'annotations' that are no list of annotations: correct it")


def category_names(annotations: dict[str, Any]) -> list[str]:
    """Category names in the order of the file, which is the order of a detector's labels.

    One that is listed twice is one.
    """
    return [*{str(entry["id"]): entry["name"] for entry in annotations["categories"]}.values()]


def check_images(path: str, folder: str, images: Sequence[dict[str, Any]], way_out: str) -> None:
    """Check that every image file exists, below its folder.

    Args:
        path: The annotation file, for the message.
        folder: Of the images.
        images: The annotation file's list.
        way_out: What the user can do, the end of the message.

    Raises:
        InputError: If a name leads out of the folder, or files are missing; it names the first and
            counts them.
    """
    paths = [image_path(folder, image.get("file_name")) for image in images]
    absent = [path for path in paths if not osp.isfile(path)]
    if absent:
        raise InputError(
            f"the image {absent[0]} of {path} does not exist ({len(absent)} of {len(images)} are "
            f"missing): {way_out}"
        )


def check_shapes(path: str, annotations: dict[str, Any]) -> None:
    """Check that no mask leads the C code that reads it beyond its memory.

    Args:
        path: The annotation file, for the message.
        annotations: Its content.

    Raises:
        InputError: For the first mask that does.
    """
    sizes = {str(image["id"]): _size(image) for image in annotations["images"]}
    for thing in annotations.get("annotations", []):
        shape = thing.get("segmentation")
        if isinstance(shape, list):
            shape = [part for part in shape if not _is_left_out(part)]
        size = sizes.get(str(thing.get("image_id")), ())
        if shape and size != () and (size is None or not is_mask(shape, size)):
            raise InputError(
                f"the annotation {thing.get('id')} of {path} has a mask that is not whole, or not "
                f"of its image's size, {size}: write it again, or leave it out"
            )


def _is_left_out(polygon: Any) -> bool:
    """Whether it is one that the frameworks leave out themselves."""
    return isinstance(polygon, list) and (len(polygon) < 6 or len(polygon) % 2 == 1)


def _size(image: dict[str, Any]) -> list[int] | None:
    size = [image.get("height"), image.get("width")]
    return size if is_size(size) else None
