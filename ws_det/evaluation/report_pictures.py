"""The pictures of the report page: images as JPEG, boxes and outlines as numbers to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ws_det.evaluation.report_choice import Kept
from ws_det.evaluation.report_errors import CORRECT, TYPES
from ws_det.evaluation.report_photos import SIDE as SIDE
from ws_det.evaluation.report_photos import as_jpeg, shown_pixels
from ws_det.images import image_path
from ws_det.masks import is_box, is_mask

_GRID = 240  # of the mask that an outline is drawn from
_FAR = 1e6  # from the image; the page needs finite numbers


def picture(
    truth: Mapping[str, Any],
    image: Mapping[str, Any],
    folder: Path,
    runs: Sequence[Kept],
) -> dict[str, Any]:
    """One image with what is on it and what each run found.

    Args:
        truth: The content of an annotation file.
        image: Its entry in there.
        folder: Of the images.
        runs: One or two.

    Returns:
        ``file``, ``width``, ``height``, ``uri`` and lists of things, ``truth`` and ``runs``; boxes
        and outlines are in the pixels of the picture.

    Raises:
        InputError: If the image cannot be read, or its name leads out of the folder.
    """
    pixels, full = shown_pixels(image_path(folder, image["file_name"]), image)
    uri, size = as_jpeg(pixels)
    labels = {key: at for at, key in enumerate(sorted({c["id"] for c in truth["categories"]}))}

    def drawn(thing: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
        return {"label": labels[thing["category_id"]], **_shape(thing, full, size), **facts}

    objects = [
        drawn(thing, found=_found_by(index, runs), crowd=bool(thing.get("iscrowd", 0)))
        for index, thing in enumerate(truth["annotations"])
        if thing["image_id"] == image["id"]
    ]
    detections = [
        [
            drawn(
                run.predictions[index],
                score=round(float(score), 3),
                outcome="correct" if outcome == CORRECT else TYPES[outcome],
            )
            for index, score, outcome in zip(
                run.found.detections, run.found.score, run.found.outcome
            )
            if score >= run.threshold and run.predictions[index]["image_id"] == image["id"]
        ]
        for run in runs
    ]
    return {
        "file": image["file_name"],
        **{"width": size[0], "height": size[1], "uri": uri},
        **{"truth": _large_first(objects), "runs": [_large_first(found) for found in detections]},
    }


def _shape(
    thing: Mapping[str, Any], full: tuple[int, int], size: tuple[int, int]
) -> dict[str, Any]:
    """The box of a thing, x y width height, and its outline, if it has a mask."""
    shape: dict[str, Any] = {}
    mask = _mask_of(thing, full[::-1])
    if mask is not None:
        shape["outline"] = _outline(mask, size)
    box = thing.get("bbox")
    if not is_box(box):
        box = [0] * 4 if mask is None else _box_of(mask)
    box = np.array(box, float).clip(-_FAR, _FAR) * np.tile(np.divide(size, full), 2)
    shape["box"] = box.round(1).tolist()
    return shape


def _mask_of(thing: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray | None:
    """The mask of a thing; None if it has none, or one that is not of the image."""
    from ws_det.pictures import decode_mask

    shape = thing.get("segmentation")
    try:
        return decode_mask(shape, size) if is_mask(shape, size) and len(shape) else None
    except ValueError:  # its runs do not fill the image
        return None


def _box_of(mask: np.ndarray) -> list[float]:
    from pycocotools import mask as coco_mask

    return coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask, np.uint8))).tolist()


def _outline(mask: np.ndarray, size: tuple[int, int]) -> str:
    """An SVG path round a mask, smooth, on the scale of the picture."""
    from contourpy import contour_generator
    from PIL import Image

    shrink = _GRID / max(size)
    grid = [max(2, round(side * shrink)) for side in size]
    small = Image.fromarray(mask.astype(np.uint8) * 255).resize(grid, Image.Resampling.BOX)
    padded = np.pad(np.asarray(small, float), 1)  # closes outlines at the edge
    scale = np.divide(size, grid)
    parts = []
    for line in contour_generator(z=padded).lines(127.5):
        points = ((line - 0.5) * scale).clip(0, size).round(1)
        parts.append("M" + "L".join(f"{x:g} {y:g}" for x, y in points) + "Z")
    return "".join(parts)


def _found_by(index: int, runs: Sequence[Kept]) -> list[bool]:
    """Whether each run has a match for an object, among the detections that count."""
    found_by = []
    for _, found, threshold in runs:
        correct = (found.outcome == CORRECT) & (found.score >= threshold)
        found_by.append(index in found.objects[found.target[correct]])
    return found_by


def _large_first(things: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """So that small things are drawn on top."""
    return sorted(things, key=lambda thing: -thing["box"][2] * thing["box"][3])
