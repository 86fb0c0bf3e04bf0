"""A damaged image is named. Oracle: the path in the sentence, and mmcv's pixels otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from ws_det.errors import InputError, one_sentence
from ws_det.mmdet.images import LoadNamedImage


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
