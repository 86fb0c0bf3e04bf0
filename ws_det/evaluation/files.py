"""Evaluate two files that hotcoco reads itself, which saves most of the time of the others."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ws_det.evaluation.backends import Arrays, hotcoco_arrays
from ws_det.evaluation.numbering import unique_names

_EVERY = [-math.inf, math.inf]
_LEAST = 1e-300  # of an area
_HEAD = 2**20  # bytes in which the first results are
_NO_POLYGON = re.compile(rb'"segmentation"\s*:\s*\[\s*\]')
_NO_SIDES = re.compile(rb'"bbox"\s*:\s*\[[^,\]]*,[^,\]]*,[^\]]*-')  # a sign in the last two numbers
# In a list of polygons, one of less than six numbers.
_FEW_CORNERS = re.compile(rb"[\[,]\s*\[(?:[^,\[\]]*,){0,4}[^,\[\]]*\]")


def evaluate_files(truth: str, predictions: str, kind: str) -> tuple[Arrays, list[str], int] | None:
    """Evaluate COCO results without reading them in Python.

    Args:
        truth: COCO annotations.
        predictions: COCO results.
        kind: ``"bbox"`` or ``"segm"``.

    Returns:
        The arrays, the class names and the number of images. None if anything about the files is
        out of the ordinary: ``numbering`` then finds out what, and whether it matters.
    """
    from hotcoco import COCO

    try:
        known = COCO(truth)
        with TemporaryDirectory() as folder:
            path = predictions if kind == "bbox" else _masks_alone(predictions, folder)
            found = known.load_res(path)
    except (ValueError, OSError):
        return None
    categories = {i: known.cats[i]["name"] for i in sorted(known.cats)}
    images = known.get_img_ids()
    plain = (
        bool(categories and images)
        and len(set(images)) == len(images)
        and not known.load_warnings
        and not found.load_warnings  # other images or categories, infinite scores
        and _has_all(known, truth, kind)
        and not _is_ambiguous(known, found)
        and _is_list_of(found, predictions, kind)
    )
    if not plain:
        return None
    try:
        return hotcoco_arrays(known, found, kind), unique_names(categories), len(images)
    except ValueError:
        return None


def _has_all(known: Any, path: str, kind: str) -> bool:
    """Whether there is nothing to mend: hotcoco passes over what is not there."""
    content = Path(path).read_bytes()
    ids = known.get_ann_ids()
    no_area = known.get_ann_ids(area_rng=[-math.inf, _LEAST])
    key = b'"bbox"' if kind == "bbox" else b'"segmentation"'
    if kind == "segm" and (_NO_POLYGON.search(content) or _FEW_CORNERS.search(content)):
        return False
    return (
        content.count(key) == len(ids)
        and b"null" not in content
        and not _NO_SIDES.search(content)
        and len(known.get_ann_ids(area_rng=_EVERY)) == len(ids)
        and len(known.get_ann_ids(known.get_img_ids(), known.get_cat_ids())) == len(ids)
        and not any(_lacks_area(thing) for thing in known.load_anns(no_area))
    )


def _lacks_area(thing: Any) -> bool:
    """Whether it has no area although its box has one."""
    box = thing.get("bbox") or [1] * 4
    return box[2] * box[3] != 0


def _is_list_of(found: Any, path: str, kind: str) -> bool:
    """Whether all results have what their kind needs."""
    ids = found.get_ann_ids()
    with open(path, "rb") as file:
        head = file.read(_HEAD)
        whole = head + file.read() if kind == "bbox" and b'"segmentation"' in head else None
    if whole is not None and whole.count(b'"bbox"') != len(ids):
        return False  # hotcoco takes the box of the mask where there is none
    # The area is that of the box, of the mask where boxes are left out, or is not there.
    return head[:1] == b"[" and len(found.get_ann_ids(area_rng=_EVERY)) == len(ids)


def _is_ambiguous(known: Any, found: Any) -> bool:
    """Whether a prediction has no score, or two categories have one id."""
    report = known.healthcheck(found)
    codes = {entry["code"] for entry in (*report["errors"], *report["warnings"])}
    return not codes.isdisjoint(("dt_missing_score", "duplicate_category_id"))


def _masks_alone(path: str, folder: str) -> str:
    """The path of the same results without boxes, so that sizes are judged by the masks' areas."""
    content = Path(path).read_bytes()
    if b'"bbox"' not in content:
        return path
    alone = os.path.join(folder, "results.json")
    # No string of a result holds this key, and nobody reads the other one.
    Path(alone).write_bytes(content.replace(b'"bbox"', b'"_box"'))
    return alone
