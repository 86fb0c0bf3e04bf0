"""What Detectron2 reads of photos. Oracle: EXIF's own words, in ``tests/photos.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import read_image
from PIL import Image

from tests.photos import FORMATS, HEIGHT, SIDES, SQUARE, WIDTH, square_of, write_photo
from ws_det.detectron2.data import NamedMapper
from ws_det.errors import InputError


class OwnMapper(DatasetMapper):
    """A user's, who may read images in a way of their own."""

    def __call__(self, dataset_dict):
        return "read"


def mapper(kind=DatasetMapper):
    options = dict(is_train=False, augmentations=[], image_format="RGB")
    return NamedMapper(kind(**options))


def read(path, size=(HEIGHT, WIDTH)):
    """What the model gets, (H, W, 3)."""
    item = dict(file_name=str(path), height=size[0], width=size[1])
    return mapper()(item)["image"].numpy().transpose(1, 2, 0)


@pytest.mark.parametrize("kind", sorted(set(FORMATS) - {"tif"}))
def test_photos_are_upright(tmp_path: Path, kind: str) -> None:
    for orientation in SIDES:
        pixels = read(write_photo(tmp_path / f"a.{kind}", orientation))
        assert pixels.shape[:2] == (HEIGHT, WIDTH) and square_of(pixels) == SQUARE


def test_a_tiff_would_be_turned_twice(tmp_path: Path) -> None:
    """The seam, seen on Pillow 13, and the sentence; upright ones are read."""
    for orientation in SIDES:
        path = write_photo(tmp_path / "a.tif", orientation)
        if orientation == 1:
            assert square_of(read(path)) == SQUARE
            continue
        assert square_of(read_image(path, "RGB")) != SQUARE
        with pytest.raises(InputError, match=r"a\.tif is a TIFF with an orientation.*upright"):
            read(path)
        assert mapper(OwnMapper)(dict(file_name=str(path))) == "read"


def test_white_is_not_made_of_16_bits(tmp_path: Path) -> None:
    """Detectron2 keeps 8 bits of gray images as they are, and would make 255 of all over it."""
    for high in (220, 255, 256, 56_000):
        path = tmp_path / "a.png"
        Image.fromarray(np.array([[40, high]], np.uint16)).save(path)
        if high < 256:
            assert read(path, (1, 2))[0, :, 0].tolist() == [40, high]
            continue
        assert read_image(path, "RGB")[0, :, 0].tolist() == [40, 255]
        with pytest.raises(InputError, match=r"a\.png is gray with 16 bits .*save it with 8"):
            read(path, (1, 2))
        assert mapper(OwnMapper)(dict(file_name=str(path))) == "read"
