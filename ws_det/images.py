"""Where the image of an annotation is, and whether it can be read without harm.

A file name in an annotation file is written by whoever made that file, so it may lead only below
the folder of the images. Links inside the folder are followed: whoever owns the folder set them, as
in data sets that are farms of links.
"""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ws_det.depth import eight_bits, is_deep
from ws_det.errors import InputError, first_line

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


def image_path(folder: str | Path, name: Any) -> str:
    """The path of an image, below its folder.

    Args:
        folder: Of the images.
        name: The ``file_name`` of an annotation file, which may have folders in it.

    Raises:
        InputError: If the name is no text, or leads out of the folder.
    """
    # "a/../b" too: where "a" is a link, its ".." is another folder's parent.
    if not isinstance(name, str) or "\0" in name or ".." in PurePath(name).parts:
        raise InputError(
            f"the annotations name the image {_short(name)}, and may only name files below the "
            f"folder of the images, {folder}: correct the file name"
        )
    if osp.isabs(name) and not PurePath(name).is_relative_to(osp.abspath(folder)):
        raise InputError(
            f"the annotations name the image {_short(name)}, which is not below the folder of the "
            f"images, {osp.abspath(folder)}: give the folder that has them all, or / if the "
            f"annotation file is trusted to name any file"
        )
    return osp.join(folder, name)


_ORIENTATION = 0x0112  # EXIF's tag
TURNED_BY_DECODERS = "TIFF"  # its orientation is a part of the format, whoever reads it turns it


@contextmanager
def opened(path: str | Path, way_out: str = "replace it") -> Iterator[Image]:
    """Open an image with Pillow and say which one it is if anything fails on it, also inside.

    Args:
        path: Of the image.
        way_out: What the user can do, the end of the message.

    Yields:
        The image; its pixels are not read yet.

    Raises:
        InputError: If there is no such file, it is no image, or it is damaged, or it has so many
            pixels that Pillow takes it for a decompression bomb.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if not osp.isfile(path):  # to open a pipe would wait for ever
            raise FileNotFoundError("there is no such file")
        # Of a path Pillow would map the file, and then it mixes up the sides of a turned TIFF.
        with open(path, "rb") as file, Image.open(file, formats=_formats()) as image:
            yield image
    except UnidentifiedImageError:
        raise InputError(f"the image {path} cannot be read (it is no image): {way_out}") from None
    except Exception as error:  # damaged bytes make a decoder raise anything
        if isinstance(error, InputError):
            raise
        reason = first_line(error)[:120]
        raise InputError(f"the image {path} cannot be read ({reason}): {way_out}") from error


def orientation(image: Image) -> int:
    """How an opened image is stored, by EXIF's table: 1 is upright, from 5 on it lies on its side.

    Args:
        image: By :func:`opened`, before its pixels are read.
    """
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # what is noted of an image may be damaged where its pixels are not
        return 1
    return int(value) if value in range(1, 9) else 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn the stored pixels (H, W) or (H, W, C) of an image; a view of them."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def image_size(
    path: str | Path, turn: bool = True, way_out: str = "replace it"
) -> tuple[int, int]:
    """Height and width of an image as it is looked at, from its header alone.

    Cameras store a photo as the sensor lies and note how to turn it (EXIF orientation). Both
    frameworks turn it when they read it, so this is the size that their models see.

    Args:
        path: Of the image.
        turn: Give False for a reader that leaves pixels as they are stored. Those of a TIFF are
            turned by each reader.
        way_out: What the user can do, the end of the message.

    Raises:
        InputError: As of :func:`opened`.
    """
    with opened(path, way_out) as image:
        is_tiff = image.format == TURNED_BY_DECODERS
        # Whether the size that Pillow gives a TIFF is turned depends on Pillow's version.
        width, height = (image.tag_v2[256], image.tag_v2[257]) if is_tiff else image.size
        on_its_side = (turn or is_tiff) and orientation(image) >= 5
    return (width, height) if on_its_side else (height, width)


def read_image(path: str | Path, turn: bool = True, way_out: str = "replace it") -> np.ndarray:
    """Read an image of any kind as one to look at: RGB, uint8, (H, W, 3), without transparency.

    Args:
        path: Of the image.
        turn: As of :func:`image_size`.
        way_out: What the user can do, the end of the message.

    Raises:
        InputError: As of :func:`opened`, and for numbers that are no colours.
    """
    import numpy as np

    with opened(path, way_out) as image:
        stored = orientation(image) if turn and image.format != TURNED_BY_DECODERS else 1
        pixels = eight_bits(image, path) if is_deep(image) else np.asarray(image.convert("RGB"))
    return np.ascontiguousarray(upright(pixels, stored))


def check_size(
    path: str | Path, real: Sequence[int], stated: Sequence[Any], way_out: str = "correct them"
) -> None:
    """Refuse annotations of an image of another size, in whose pixels the boxes then are not.

    Args:
        path: Of the image.
        real: Its height and width.
        stated: Those by the annotations.
        way_out: What the user can do, the end of the message.

    Raises:
        InputError: If they differ.
    """
    if tuple(real) != tuple(stated):
        raise InputError(
            f"the image {path} has height {real[0]} and width {real[1]}, and height {stated[0]} "
            f"and width {stated[1]} by its annotations: {way_out}"
        )


@cache
def _formats() -> list[str]:
    """All that Pillow reads but EPS, which is a program, and for which it starts another one."""
    from PIL import Image

    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
