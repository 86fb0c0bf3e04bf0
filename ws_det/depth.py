"""Gray images with more than 8 bits, of which readers make 8 in different ways."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ws_det.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


def is_deep(image: Image) -> bool:
    """Whether an image, opened with Pillow, is one; colours with 16 bits are opened with 8."""
    return image.mode.startswith(("I", "F"))


def eight_bits(image: Image, path: str | Path) -> np.ndarray:
    """The pixels of one to look at, RGB of (H, W, 3): the upper 8 of 16 bits, if they are used.

    Raises:
        InputError: If it has fractions, or numbers of more than 16 bits.
    """
    import numpy as np

    pixels = np.asarray(image)
    high = pixels.max()
    if pixels.dtype.kind == "f" or pixels.min() < 0 or high >= 2**16:
        raise InputError(
            f"the image {path} has numbers of 32 bits, of which nobody knows what is white: save "
            f"it with 8 or 16 bits"
        )
    few = pixels if high < 256 else pixels // 256  # as OpenCV does
    return few.astype(np.uint8)[..., None].repeat(3, axis=2)


def check_depth(image: Image, path: str | Path) -> None:
    """Refuse an image of which Pillow's conversion to RGB keeps nothing, without a word.

    Raises:
        InputError: If it has values over 255, which all become 255, or fractions below 1, which
            become 0.
    """
    import numpy as np

    if not is_deep(image):
        return
    pixels = np.asarray(image)
    high = pixels.max()
    if high > 255 or (pixels.dtype.kind == "f" and 0 < high <= 1):
        raise InputError(
            f"the image {path} is gray with {8 * pixels.itemsize} bits and values up to {high:g}, "
            f"and would be read as {'white' if high > 255 else 'black'}: save it with 8 bits"
        )
