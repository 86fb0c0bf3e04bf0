"""Whether boxes and masks of a file can be given to the C code of the evaluations.

That code trusts them: a run length that is not ended, or a corner far away, makes it read and write
beyond its memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Numbers of 5 bits a letter; the 6th bit says that one goes on, and the last may not.
_COMPRESSED = re.compile(r"(?:[P-o]{0,6}[0-O])+")
_MOST_PIXELS = 2**31 - 1  # run lengths are 32 bits


def is_finite(value: Any) -> bool:
    """Whether it is a finite number."""
    try:
        return math.isfinite(value)
    except (OverflowError, RuntimeError, TypeError, ValueError):  # as tensors have it
        return False


def is_box(box: Any) -> bool:
    """Whether it is four finite numbers."""
    try:
        return not isinstance(box, (str, Mapping)) and len(box) == 4 and is_finite(sum(box))
    except TypeError:
        return False


def is_size(size: Any) -> bool:
    """Whether it is the height and width of an image of which there can be masks."""
    try:
        height, width = size
        whole = height == int(height) > 0 and width == int(width) > 0
        return whole and height * width <= _MOST_PIXELS
    except (OverflowError, TypeError, ValueError):
        return False


def is_mask(shape: Any, size: Sequence[int]) -> bool:
    """Whether it is a mask: polygons, or RLE, compressed or not.

    Args:
        shape: The ``segmentation`` of a COCO file.
        size: Height and width of its image, by ``is_size``, which RLE must have too. Polygons may
            leave the image, but no further than ten times its size, for each step of an edge takes
            memory.
    """
    if isinstance(shape, list):
        far = 10 * max(size) + 100
        return all(_is_polygon(part, far) for part in shape)
    return isinstance(shape, Mapping) and _is_rle(shape.get("counts"), shape.get("size"), size)


def _is_rle(counts: Any, own: Any, size: Sequence[int]) -> bool:
    if not is_size(own) or list(own) != list(size):
        return False
    if isinstance(counts, list):
        plain = all(isinstance(run, int) and run >= 0 for run in counts)
        return plain and sum(counts) == size[0] * size[1]
    try:
        text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    except UnicodeDecodeError:
        return False
    return isinstance(text, str) and _COMPRESSED.fullmatch(text) is not None


def _is_polygon(corners: Any, far: float) -> bool:
    try:
        return (
            isinstance(corners, (list, tuple))
            and len(corners) >= 6
            and is_finite(sum(corners))  # or a comparison with NaN would hide the others
            and -far <= min(corners)
            and max(corners) <= far
        )
    except TypeError:
        return False
