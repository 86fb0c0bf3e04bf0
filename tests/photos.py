"""Photos as cameras store them, turned by each of EXIF's orientations.

Oracle: the words of the standard, which say for each value at which side of the upright picture the
first row and the first column of the stored one are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, features

SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}
# All that hold an orientation and that Pillow writes, without loss where that can be.
FORMATS = {
    "jpg": {"quality": 95, "subsampling": 0},
    "png": {},
    "tif": {},
    "webp": {"lossless": True},
    **({"avif": {"quality": 100, "subsampling": "4:4:4"}} if features.check("avif") else {}),
}
HEIGHT, WIDTH = 48, 80
SQUARE = (8, 4, 20, 16)  # x, y, width and height: near the left and the top
GREEN, GREY = (0, 200, 0), (90, 90, 90)


def upright_pixels() -> np.ndarray:
    """The upright picture, RGB of (H, W, 3): a green square on grey."""
    pixels = np.full((HEIGHT, WIDTH, 3), GREY, np.uint8)
    x, y, width, height = SQUARE
    pixels[y : y + height, x : x + width] = GREEN
    return pixels


def stored(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """An upright picture as a camera stores it."""
    rows, columns = SIDES[orientation]
    lies = rows in ("left", "right")
    height, width = pixels.shape[:2]
    result = np.empty((width, height, 3) if lies else pixels.shape, pixels.dtype)
    for row in range(len(result)):
        for column in range(result.shape[1]):
            across, down = (row, column) if lies else (column, row)
            x = width - 1 - across if "right" in (rows, columns) else across
            y = height - 1 - down if "bottom" in (rows, columns) else down
            result[row, column] = pixels[y, x]
    return result


def write_photo(path: Path, orientation: int, pixels: np.ndarray | None = None) -> Path:
    """Write a picture, by default the square, as a camera that was held so."""
    image = Image.fromarray(stored(upright_pixels() if pixels is None else pixels, orientation))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = FORMATS[path.suffix[1:]]
    if path.suffix == ".tif":
        image.save(path, tiffinfo={0x0112: orientation}, **options)
    else:
        image.save(path, exif=exif.tobytes(), **options)
    return path


def square_of(pixels: np.ndarray) -> tuple[int, ...]:
    """Where the green square is, as ``SQUARE``: the extent of what is more green than red."""
    rows, columns = np.nonzero(pixels[..., 1].astype(int) - pixels[..., 0] > 100)
    x, y = columns.min(), rows.min()
    return tuple(int(side) for side in (x, y, columns.max() + 1 - x, rows.max() + 1 - y))
