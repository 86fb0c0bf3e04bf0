"""The one reader of images. Oracles: EXIF's own words in ``tests/photos.py``; pixels by hand."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("PIL", reason="images are read with Pillow")
pytest.importorskip("numpy", reason="pixels are arrays")

import numpy as np
from PIL import Image

from tests import photos
from tests.odd_photos import odd_photo, shows
from tests.photos import FORMATS, HEIGHT, SIDES, SQUARE, WIDTH, square_of, write_photo
from ws_det.errors import InputError
from ws_det.images import image_size, read_image


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", SIDES)
def test_photos_are_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    """Their size too. JPEG and AVIF round by at most 16 of 255 at the square's edge."""
    path = write_photo(tmp_path / f"a.{kind}", orientation)
    pixels = read_image(path)
    assert image_size(path) == pixels.shape[:2] == (HEIGHT, WIDTH) and pixels.dtype == np.uint8
    assert square_of(pixels) == SQUARE
    most = 16 if kind in ("jpg", "avif") else 0
    assert np.abs(pixels.astype(int) - photos.upright_pixels()).max() <= most


@pytest.mark.parametrize("kind", FORMATS)
def test_stored_pixels(tmp_path: Path, kind: str) -> None:
    """For readers that leave them so, which no reader does with a TIFF."""
    path = write_photo(tmp_path / f"a.{kind}", 6)
    size = (HEIGHT, WIDTH) if kind == "tif" else (WIDTH, HEIGHT)
    assert image_size(path, turn=False) == read_image(path, turn=False).shape[:2] == size


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("value", [0, 9, 65535, "damaged"])
def test_what_is_no_orientation(tmp_path: Path, kind: str, value: int | str) -> None:
    """EXIF that nobody can read is no reason to refuse the pixels, and both frameworks do not."""
    path = write_photo(tmp_path / f"a.{kind}", 1)
    exif = Image.Exif()
    exif[0x0112] = 1 if value == "damaged" else value
    content = exif.tobytes()
    if value == "damaged":
        content = content[:6] + b"\xff" * len(content[6:])
    # The orientation of a TIFF is no EXIF, and Pillow refuses to write such an AVIF.
    if kind != "tif" and (kind, value) != ("avif", "damaged"):
        Image.fromarray(photos.upright_pixels()).save(path, exif=content, **FORMATS[kind])
    assert image_size(path) == (HEIGHT, WIDTH)
    assert square_of(read_image(path)) == SQUARE


# --- images of all kinds ------------------------------------------------------------------------

COLORS = np.array([[[20, 160, 240], [200, 60, 30]]] * 2, np.uint8)
GRAY = np.array([[40, 220]] * 2, np.uint8)
ALPHA = np.array([[255, 128]] * 2, np.uint8)


def kinds() -> dict[str, tuple[Image.Image, str, dict]]:
    """Image, format, and what to save it with."""
    colors, gray, alpha = map(Image.fromarray, (COLORS, GRAY, ALPHA))
    rgba, la = colors.copy(), Image.merge("LA", (gray, alpha))
    rgba.putalpha(alpha)
    deep_pixels = GRAY.astype(np.uint16) * 256
    deep = Image.fromarray(deep_pixels)
    flat = Image.fromarray(GRAY.astype(np.uint16))
    return {
        **{f"palette {kind}": (colors.quantize(4), kind, {}) for kind in ("PNG", "GIF", "TIFF")},
        "palette with a clear colour": (colors.quantize(4), "PNG", {"transparency": 0}),
        **{f"colours and alpha {kind}": (rgba, kind, {}) for kind in ("PNG", "TIFF")},
        "colours and alpha WEBP": (rgba, "WEBP", {"lossless": True, "exact": True}),
        **{f"gray {kind}": (gray, kind, {}) for kind in ("PNG", "TIFF", "GIF", "BMP")},
        **{f"gray and alpha {kind}": (la, kind, {}) for kind in ("PNG", "TIFF")},
        **{f"16 bits {kind}": (deep, kind, {}) for kind in ("PNG", "TIFF")},
        "16 bits, the other end first": (Image.fromarray(deep_pixels.astype(">u2")), "TIFF", {}),
        "8 of 16 bits": (flat, "PNG", {}),
        "32 bits that are 16": (Image.fromarray(GRAY.astype(np.int32) * 256), "TIFF", {}),
        "CMYK": (colors.convert("CMYK"), "TIFF", {}),
    }


@pytest.mark.parametrize("kind", kinds())
def test_all_kinds_are_looked_at(tmp_path: Path, kind: str) -> None:
    """Colours are exact; what is clear keeps its colour, as for both frameworks."""
    image, written, options = kinds()[kind]
    image.save(tmp_path / "a", written, **options)
    pixels = read_image(tmp_path / "a")
    assert pixels.dtype == np.uint8 and image_size(tmp_path / "a") == (2, 2)
    is_gray = "gray" in kind or "bits" in kind
    np.testing.assert_array_equal(pixels, GRAY[..., None].repeat(3, 2) if is_gray else COLORS)


def test_colours_of_16_bits(tmp_path: Path) -> None:
    """Written by OpenCV, for Pillow writes none."""
    cv2 = pytest.importorskip("cv2")
    for name in ("a.png", "a.tif"):
        cv2.imwrite(str(tmp_path / name), COLORS[..., ::-1].astype(np.uint16) * 256)
        np.testing.assert_array_equal(read_image(tmp_path / name), COLORS)


@pytest.mark.parametrize("values", [[[0.1, 0.9]], [[-1, 3]], [[0, 2**16]]])
def test_numbers_that_are_no_colours(tmp_path: Path, values: list) -> None:
    wide = np.array(values)
    Image.fromarray(wide.astype(f"{wide.dtype.kind}4")).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif has numbers of 32 bits.*save it with 8 or 16"):
        read_image(tmp_path / "a.tif")


# --- random images ------------------------------------------------------------------------------


def test_random_images_are_looked_at_upright(tmp_path: Path) -> None:
    """Each shows its square where it is, or is refused by its name, if that is for a reason."""
    rng, counts = random.Random(0), Counter()
    for _ in range(400):
        odd = odd_photo(rng, tmp_path)
        try:
            pixels = read_image(odd.path)
        except InputError as error:
            assert str(odd.path) in str(error) and (odd.is_damaged or odd.mode in ("I", "F")), odd
            counts["refused"] += 1
            continue
        assert pixels.shape[:2] == image_size(odd.path), odd
        assert odd.is_damaged or shows(pixels, odd), odd
        counts["damaged, and looked at" if odd.is_damaged else "looked at"] += 1
    print("random images:", dict(counts))
    assert counts["looked at"] > 250 and counts["refused"] > 30
