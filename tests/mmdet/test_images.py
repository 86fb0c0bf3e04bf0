"""A damaged image is named. Oracle: the path in the sentence, and mmcv's pixels otherwise."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import mmcv
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from tests.odd_photos import odd_photo, shows
from tests.photos import FORMATS, HEIGHT, SIDES, SQUARE, WIDTH, square_of, write_photo
from ws_det.errors import InputError, one_sentence
from ws_det.images import image_size
from ws_det.mmdet.images import LoadNamedImage, turns


@pytest.fixture(params=["jpg", "png", "bmp"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Noise, which does not compress to nothing."""
    path = tmp_path / f"image.{request.param}"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_whole_images_are_mmcvs(image: Path) -> None:
    ours = LoadNamedImage()(dict(img_path=str(image)))["img"]
    assert np.array_equal(ours, LoadImageFromFile()(dict(img_path=str(image)))["img"])


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.95])
def test_truncated_images_are_named(image: Path, kept: float) -> None:
    content = image.read_bytes()
    image.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InputError, match=f"the image {image} cannot be read"):
        LoadNamedImage()(dict(img_path=str(image)))


def test_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("<html>404</html>")
    with pytest.raises(InputError, match=r"a\.jpg cannot be read"):
        LoadNamedImage()(dict(img_path=str(tmp_path / "a.jpg")))


def test_a_workers_traceback_becomes_its_sentence() -> None:
    """Oracle: the text in which torch wraps what a worker raised."""
    text = "Caught InputError in DataLoader worker process 0.\nOriginal Traceback:\n  ...\n"
    text += "ws_det.errors.InputError: the image a.jpg cannot be read (x): replace it\n"
    with pytest.raises(InputError) as caught, one_sentence():
        raise InputError(text)
    assert str(caught.value) == "the image a.jpg cannot be read (x): replace it"


@pytest.mark.parametrize("backend", ["cv2", "pillow"])
@pytest.mark.parametrize("color_type", ["color", "grayscale"])
@pytest.mark.parametrize("kind", FORMATS)
def test_photos_are_upright(tmp_path: Path, kind: str, color_type: str, backend: str) -> None:
    """Of each format and orientation. Oracle: EXIF's own words, in ``tests/photos.py``."""
    loader = LoadNamedImage(color_type=color_type, imdecode_backend=backend)
    for orientation in SIDES:
        path = write_photo(tmp_path / f"a.{kind}", orientation)
        results = loader(dict(img_path=str(path)))
        pixels = results["img"]
        assert results["img_shape"] == results["ori_shape"] == pixels.shape[:2] == (HEIGHT, WIDTH)
        if color_type == "grayscale":  # green is 117 there, and grey 90
            pixels = np.stack([np.zeros_like(pixels), (pixels > 104) * 200], axis=2)
            assert square_of(pixels) == SQUARE
        else:
            assert square_of(pixels) == SQUARE


@pytest.mark.parametrize("kind", FORMATS)
def test_bits_of_ordinary_photos(tmp_path: Path, kind: str) -> None:
    """What MMCV turns itself has MMCV's own pixels, to the bit."""
    if kind in ("webp", "avif"):
        pytest.skip("OpenCV leaves them as they lie")
    for orientation in SIDES:
        path = write_photo(tmp_path / f"a.{kind}", orientation)
        theirs = LoadImageFromFile()(dict(img_path=str(path)))["img"]
        assert np.array_equal(LoadNamedImage()(dict(img_path=str(path)))["img"], theirs)


READERS = [
    *((flag, "cv2") for flag in ("unchanged", "color_ignore_orientation")),
    *((flag, "pillow") for flag in ("unchanged", "grayscale_ignore_orientation")),
]


@pytest.mark.parametrize(("color_type", "backend"), READERS)
@pytest.mark.parametrize("kind", FORMATS)
def test_who_wants_stored_pixels_gets_them(
    tmp_path: Path, kind: str, color_type: str, backend: str
) -> None:
    """Their size is known from the header, and the pixels are MMCV's."""
    settings = dict(color_type=color_type, imdecode_backend=backend)
    path = write_photo(tmp_path / f"a.{kind}", 6)
    ours = LoadNamedImage(**settings)(dict(img_path=str(path)))["img"]
    assert np.array_equal(ours, LoadImageFromFile(**settings)(dict(img_path=str(path)))["img"])
    assert not turns(settings) and ours.shape[:2] == image_size(path, turn=False)


def test_seams_of_mmcv(tmp_path: Path) -> None:
    """What OpenCV 4.12 and Pillow 13 turn; a newer one may do better, and then this is to change.

    The size of what MMCV reads of a photo stored on its side, with OpenCV, and with Pillow.
    """
    read = {}
    for kind in FORMATS:
        path = write_photo(tmp_path / f"a.{kind}", 6)
        read[kind] = [mmcv.imread(path, backend=b).shape[0] == HEIGHT for b in ("cv2", "pillow")]
    assert read.pop("avif", [False, True]) == read.pop("webp") == [False, True]
    assert all(both == [True, True] for both in read.values())


def test_white_is_not_made_of_16_bits(tmp_path: Path) -> None:
    """OpenCV takes the upper eight bits, as the model sees them; Pillow white."""
    deep = np.array([[40, 220]], np.uint16) * 256
    Image.fromarray(deep).save(tmp_path / "a.png")
    results = dict(img_path=str(tmp_path / "a.png"))
    assert LoadNamedImage()(dict(results))["img"][0, :, 0].tolist() == [40, 220]
    with pytest.raises(InputError, match=r"a\.png is gray with 16 bits .*white: save it with 8"):
        LoadNamedImage(imdecode_backend="pillow")(results)


def test_random_images_are_upright(tmp_path: Path) -> None:
    """The model sees the square of each where it is, or the image is refused by its name."""
    rng, counts = random.Random(0), Counter()
    for _ in range(400):
        odd = odd_photo(rng, tmp_path)
        backend = rng.choice(["cv2", "pillow"])
        loader = LoadNamedImage(
            imdecode_backend=backend, color_type=rng.choice(["color", "grayscale"])
        )
        no_opencv = backend == "cv2" and odd.format == "TGA"
        too_deep = odd.mode in ("I", "F") or (odd.mode == "I;16" and backend == "pillow")
        try:
            pixels = loader(dict(img_path=str(odd.path)))["img"]
        except InputError as error:
            assert str(odd.path) in str(error) and (odd.is_damaged or no_opencv or too_deep), odd
            counts["refused"] += 1
            continue
        assert odd.is_damaged or shows(pixels, odd), (odd, backend)
        counts["damaged, and read" if odd.is_damaged else "read"] += 1
    print("random images for MMDetection:", dict(counts))
    assert counts["read"] > 250 and counts["refused"] > 30
