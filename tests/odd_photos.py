"""Random images as users have them: of each format, kind of pixels and orientation, also damaged.

Each shows a white square on black, so that every kind of pixels can hold it.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.photos import SIDES, stored

HEIGHT, WIDTH = 32, 48
KINDS = {
    "JPEG": ("RGB", "L", "CMYK"),
    "MPO": ("RGB",),
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "TIFF": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK", "I", "F"),
    "WEBP": ("RGB", "RGBA"),
    "JPEG2000": ("RGB", "L"),
    "BMP": ("RGB", "L", "P", "1"),
    "GIF": ("L", "P"),
    "TGA": ("RGB", "L"),
}
TURNED = ("JPEG", "MPO", "PNG", "TIFF", "WEBP")  # those that hold an orientation


class Odd(NamedTuple):
    """An image.

    Attributes:
        path: Of it; its suffix may be another format's.
        format: Its format.
        mode: Its kind of pixels, in Pillow's words.
        orientation: By which it is stored.
        square: x, y, width and height of the square in the upright image.
        is_damaged: Whether a part of it is missing.
    """

    path: Path
    format: str
    mode: str
    orientation: int
    square: tuple[int, int, int, int]
    is_damaged: bool


def odd_photo(rng: random.Random, folder: Path) -> Odd:
    """Write an image into a folder, in the place of the last."""
    kind = rng.choice([*KINDS])
    mode = rng.choice(KINDS[kind])
    orientation = rng.choice([*SIDES]) if kind in TURNED else 1
    square = (*(8 * rng.randint(0, 2) for _ in "xy"), 8, 8)
    x, y, width, height = square
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[y : y + height, x : x + width] = 255
    image = _of_mode(Image.fromarray(stored(pixels, orientation)), mode)
    path = folder / f"a{rng.choice(['.jpg', '.png', '.tif', ''])}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "TIFF":
        image.save(path, kind, tiffinfo={0x0112: orientation})
    elif kind in TURNED:
        image.save(path, kind, exif=exif.tobytes())
    else:
        image.save(path, kind)
    is_damaged = rng.random() < 0.15
    if is_damaged:
        content = path.read_bytes()
        path.write_bytes(content[: rng.randrange(len(content))])
    return Odd(path, kind, mode, orientation, square, is_damaged)


def shows(pixels: np.ndarray, odd: Odd) -> bool:
    """Whether pixels (H, W) or (H, W, 3) have the square where it is in the upright image."""
    gray = pixels if pixels.ndim == 2 else pixels.min(axis=2)
    rows, columns = np.nonzero(gray > 128)
    x, y, width, height = odd.square
    corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    off = np.abs(np.subtract(corners, (x, y, x + width, y + height))).max()
    return pixels.shape[:2] == (HEIGHT, WIDTH) and off <= 1  # codecs blur its edge


def _of_mode(image: Image.Image, mode: str) -> Image.Image:
    gray = np.asarray(image.convert("L"))
    if mode == "I;16":
        return Image.fromarray(gray.astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(gray.astype(np.int32) * 2**20)
    if mode == "F":
        return Image.fromarray(gray.astype(np.float32) / 255)
    if mode in ("LA", "RGBA"):
        image = image.convert(mode)
        image.putalpha(200)
        return image
    return image.quantize(4) if mode == "P" else image.convert(mode)
