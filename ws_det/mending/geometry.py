"""Boxes and areas of masks, as COCO's own tools have them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ws_det.masks import is_finite


def fault_of_box(box: Any) -> str:
    """What is wrong with a box, or nothing: after "it has"."""
    if not box and not isinstance(box, (int, float)):
        return NO_BOX
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite, box)):
        return f"the box {short(box)}, not four numbers x, y, width and height"
    return NEGATIVE if min(box[2:]) < 0 else ""


NO_BOX, NEGATIVE = "no box", "a box of a negative side"


def is_no_polygon(part: Any) -> bool:
    """Whether it is one that the frameworks leave out; pycocotools takes four numbers for a box."""
    return isinstance(part, list) and (len(part) < 6 or len(part) % 2 == 1)


def box_of(shape: Any, size: Sequence[int] | None) -> list[float] | None:
    """The box about a mask, or None; about the corners of polygons, inside their image.

    Args:
        shape: Polygons or RLE, by ``is_mask``, or None.
        size: Height and width of the image, if known.
    """
    if isinstance(shape, Mapping):
        from pycocotools import mask as coco_mask

        box = coco_mask.toBbox(_encoded(shape, shape["size"])).tolist()
        return box if min(box[2:]) > 0 else None
    if not shape:
        return None
    height, width = size or (math.inf, math.inf)
    xs = [min(max(x, 0), width) for part in shape for x in part[::2]]
    ys = [min(max(y, 0), height) for part in shape for y in part[1::2]]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return box if min(box[2:]) > 0 else None


def area_of(shape: Any, size: Sequence[int] | None) -> float:
    """How many pixels a mask has; 0 where there is none.

    Args:
        shape: Polygons or RLE, by ``is_mask``, or None.
        size: Height and width of the image, if known.
    """
    if isinstance(shape, Mapping):
        size = shape["size"]
    if shape is None or size is None:
        return 0.0
    from pycocotools import mask as coco_mask

    return float(coco_mask.area(_encoded(shape, size)))


def short(value: Any) -> str:
    """A value as it is quoted in a sentence."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _encoded(shape: Any, size: Sequence[int]) -> Any:
    from pycocotools import mask as coco_mask

    if isinstance(shape, list):
        return coco_mask.merge(coco_mask.frPyObjects(shape, *size))
    if isinstance(shape["counts"], list):
        return coco_mask.frPyObjects(shape, *size)
    return shape
