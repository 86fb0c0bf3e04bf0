"""Images that Detectron2's own reader gets wrong without a word."""

from __future__ import annotations

from collections.abc import Iterable
from os.path import splitext

from ws_det.depth import check_depth
from ws_det.errors import InputError
from ws_det.images import TURNED_BY_DECODERS, opened, orientation


def check_image(path: str) -> None:
    """Check that an image can be read, and by Detectron2 is read rightly.

    Args:
        path: Of the image.

    Raises:
        InputError: If it is damaged or no image; if it is a TIFF with an orientation, for Pillow
            turns it as it decodes and Detectron2 again; if it is gray with values over 255.
    """
    with opened(path) as image:
        if image.format == TURNED_BY_DECODERS and orientation(image) != 1:
            raise InputError(
                f"the image {path} is a TIFF with an orientation, and Detectron2 would turn it "
                f"twice: save it upright, without one"
            )
        check_depth(image, path)


def check_kinds(paths: Iterable[str]) -> None:
    """Check the first image of each kind of file: what is wrong with it is so with most others.

    Raises:
        InputError: As of :func:`check_image`.
    """
    firsts: dict[str, str] = {}
    for path in paths:
        firsts.setdefault(splitext(path)[1].lower(), path)
    for path in firsts.values():
        check_image(path)
