"""The photos of the report page: which of their pixels are shown, and as what."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ws_det.images import check_size, image_path, image_size, read_image
from ws_det.masks import is_size

SIDE = 560  # pixels of the longer side of a picture
_QUALITY = 80
_COMPARED = 100  # images, before an evaluation
_WAY_OUT = (
    "give the folder of the images with --images, or leave it out for a page without pictures"
)


def check_sizes(images: Sequence[Mapping[str, Any]], folder: str | Path) -> None:
    """Compare some images with the annotations, before an evaluation begins of which they are.

    Args:
        images: The list of an annotation file.
        folder: Of the images.

    Raises:
        InputError: If an image cannot be read, or is another one than the annotations speak of.
    """
    for image in random.Random(0).sample(images, min(len(images), _COMPARED)):
        _is_upright(image_path(folder, image["file_name"]), image)


def shown_pixels(path: str, image: Mapping[str, Any]) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels to show, and the width and height by the annotations, in which boxes are."""
    pixels = read_image(path, _is_upright(path, image), _WAY_OUT)
    height, width = _stated(image) or pixels.shape[:2]
    return pixels, (width, height)


def _is_upright(path: str, image: Mapping[str, Any]) -> bool:
    """Whether a photo is shown upright; else as it is stored, of whose size its annotations speak.

    The folder may have all images smaller or larger than the annotations do.
    """
    real, stated = image_size(path, way_out=_WAY_OUT), _stated(image)
    if stated in (None, real):
        return True
    if image_size(path, turn=False) == stated:
        return False
    if not _is_scaled(real, stated):
        check_size(path, real, stated, _WAY_OUT)
    return True


def _stated(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width by the annotations."""
    size = image.get("height"), image.get("width")
    return (int(size[0]), int(size[1])) if is_size(size) else None


def _is_scaled(real: Sequence[int], stated: Sequence[int]) -> bool:
    """Whether a size is another one, scaled and rounded; masks of a far larger one take memory."""
    height, width = stated
    # There is a scale that gives both sides to a pixel.
    fits = abs(real[0] / height - real[1] / width) <= 1 / height + 1 / width
    return fits and max(stated) <= 100 * max(real)


def as_jpeg(pixels: np.ndarray) -> tuple[str, tuple[int, int]]:
    """A small JPEG as a data URI, and its width and height."""
    from PIL import Image

    small = Image.fromarray(pixels)
    small.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    small.save(content, "JPEG", quality=_QUALITY, optimize=True)
    coded = base64.b64encode(content.getvalue()).decode()
    return f"data:image/jpeg;base64,{coded}", small.size
