"""Where the image of an annotation is, and whether it can be read without harm.

A file name in an annotation file is written by whoever made that file, so it may lead only below
the folder of the images. Links inside the folder are followed: whoever owns the folder set them, as
in data sets that are farms of links.
"""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ws_det.errors import InputError, first_line

if TYPE_CHECKING:
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
        with Image.open(path, formats=_formats()) as image:
            yield image
    except UnidentifiedImageError:
        raise InputError(f"the image {path} cannot be read (it is no image): {way_out}") from None
    except Exception as error:  # damaged bytes make a decoder raise anything
        if isinstance(error, InputError):
            raise
        reason = first_line(error)[:120]
        raise InputError(f"the image {path} cannot be read ({reason}): {way_out}") from error


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width of an image as it is looked at, from its header alone.

    Cameras store a photo as the sensor lies and note how to turn it (EXIF orientation). Both
    frameworks turn it when they read it, so this is the size that their models see.

    Args:
        path: Of the image.

    Raises:
        InputError: As of :func:`opened`.
    """
    with opened(path) as image:
        width, height = image.size
        on_its_side = image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
    return (width, height) if on_its_side else (height, width)


@cache
def _formats() -> list[str]:
    """All that Pillow reads but EPS, which is a program, and for which it starts another one."""
    from PIL import Image

    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
