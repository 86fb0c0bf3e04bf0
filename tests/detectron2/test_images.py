"""What Detectron2 reads of photos. Oracle: EXIF's own words, in ``tests/photos.py``."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data.datasets import register_coco_instances
from detectron2.data.detection_utils import read_image
from PIL import Image

from tests import odd_photos
from tests.odd_photos import odd_photo, shows
from tests.photos import FORMATS, HEIGHT, SIDES, SQUARE, WIDTH, square_of, write_photo
from ws_det.detectron2.data import NamedMapper, check_sets
from ws_det.detectron2.set_files import Wants
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


def test_sets_of_such_images_are_refused_before_a_run(tmp_path: Path) -> None:
    """By the first of each kind of file, for a mapper of the user's own may read them rightly."""
    names = ["a.png", "b.tif"]
    write_photo(tmp_path / names[0], 6)
    write_photo(tmp_path / names[1], 6)
    content = {
        "images": [{"id": n, "file_name": n} for n in names],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    name = f"photos_{tmp_path.name}"
    register_coco_instances(name, {}, str(tmp_path / "truth.json"), str(tmp_path))
    dicts = [{"file_name": str(tmp_path / n), "image_id": n} for n in names]
    DatasetCatalog.register(f"{name}_of_a_function", lambda: dicts)
    for given in (name, f"{name}_of_a_function"):
        with pytest.raises(InputError, match=r"b\.tif is a TIFF with an orientation"):
            check_sets([given], [1], Wants(test_sets=[given]))
        check_sets([given], [1], Wants(test_sets=[given], own_mapper=False))


def test_white_is_not_made_of_16_bits(tmp_path: Path) -> None:
    """Detectron2 keeps 8 bits of gray images as they are, and would make 255 of all over it."""
    for high in (220, 255, 256, 56_000):
        path = tmp_path / "a.png"
        Image.fromarray(np.array([[40, high]], np.uint16)).save(path)
        if high < 256:
            assert read(path, (1, 2))[0, :, 0].tolist() == [40, high]
            continue
        assert read_image(path, "RGB")[0, :, 0].tolist() == [40, 255]
        with pytest.raises(InputError, match=r"a\.png is gray with 16 bits .*white: save it"):
            read(path, (1, 2))
        assert mapper(OwnMapper)(dict(file_name=str(path))) == "read"


def test_black_is_not_made_of_fractions(tmp_path: Path) -> None:
    """Up to 255, Detectron2 reads floating point as it is."""
    path = tmp_path / "a.tif"
    for values in ([[0.0, 0.9]], [[0.0, 0.0]], [[0.0, 220.0]]):
        Image.fromarray(np.array(values, np.float32)).save(path)
        if 0.9 in values[0]:
            with pytest.raises(InputError, match=r"gray with 32 bits and values up to 0\.9.*black"):
                read(path, (1, 2))
        else:
            assert read(path, (1, 2))[0, :, 0].tolist() == values[0]


def test_random_images_are_upright(tmp_path: Path) -> None:
    """The model sees the square of each where it is, or the image is refused by its name."""
    rng, counts = random.Random(0), Counter()
    for _ in range(400):
        odd = odd_photo(rng, tmp_path)
        too_deep = odd.mode in ("I", "F", "I;16")
        turned_twice = odd.format == "TIFF" and odd.orientation != 1
        try:
            pixels = read(odd.path, (odd_photos.HEIGHT, odd_photos.WIDTH))
        except InputError as error:
            assert str(odd.path) in str(error), odd
            assert odd.is_damaged or too_deep or turned_twice, odd
            counts["refused"] += 1
            continue
        assert odd.is_damaged or shows(pixels, odd), odd
        counts["damaged, and read" if odd.is_damaged else "read"] += 1
    print("random images for Detectron2:", dict(counts))
    assert counts["read"] > 200 and counts["refused"] > 30
