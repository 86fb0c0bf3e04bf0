"""Photos on the report page. Oracle: EXIF's own words; where the square is in the page's JPEG."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pycocotools", reason="masks are read with pycocotools")
pytest.importorskip("matplotlib", reason="outlines are drawn with a dependency of matplotlib")
pytest.importorskip("PIL", reason="images are read with Pillow")

import numpy as np
from PIL import Image

from tests import photos
from tests.photos import FORMATS, HEIGHT, SIDES, SQUARE, WIDTH, square_of, write_photo
from tools import evaluate as tool
from ws_det.errors import InputError
from ws_det.evaluation.report_pictures import picture


def shown(folder: Path, name: str, box: tuple[int, ...], width: Any, height: Any) -> dict[str, Any]:
    """What the page has of an image with one object."""
    image = {"id": 5, "file_name": name, "width": width, "height": height}
    thing = {"id": 1, "image_id": 5, "category_id": 1, "bbox": box, "area": 1, "iscrowd": 0}
    content = {"images": [image], "categories": [{"id": 1, "name": "a"}], "annotations": [thing]}
    return picture(content, image, folder, [])


def surrounds(page: dict[str, Any]) -> bool:
    """Whether the box that is drawn is the square's; JPEG blurs its edges by two pixels."""
    coded = page["uri"].partition(",")[2]
    found = square_of(np.asarray(Image.open(io.BytesIO(base64.b64decode(coded)))))
    return bool(np.abs(np.subtract(found, page["truth"][0]["box"])).max() <= 2)


@pytest.mark.parametrize("kind", FORMATS)
def test_boxes_surround_in_upright_photos(tmp_path: Path, kind: str) -> None:
    """Whether the annotations know the size or not."""
    for orientation in SIDES:
        write_photo(tmp_path / f"a.{kind}", orientation)
        for width, height in ((WIDTH, HEIGHT), (None, None)):
            page = shown(tmp_path, f"a.{kind}", SQUARE, width, height)
            assert (page["width"], page["height"]) == (WIDTH, HEIGHT)
            assert surrounds(page), f"{kind} {orientation}"


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_the_stored_size_surround_in_stored_photos(
    tmp_path: Path, orientation: int
) -> None:
    """As a program annotates that does not turn photos."""
    write_photo(tmp_path / "a.png", orientation)
    box = square_of(photos.stored(photos.upright_pixels(), orientation))
    page = shown(tmp_path, "a.png", box, HEIGHT, WIDTH)
    assert (page["width"], page["height"]) == (HEIGHT, WIDTH) and surrounds(page)


def test_a_folder_of_smaller_images(tmp_path: Path) -> None:
    """Seeded sizes: each side is rounded, down or to the nearest."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        height, width = (int(side) for side in rng.integers(50, 300, 2))
        scale, rounded = rng.uniform(0.3, 2), rng.choice([int, round])
        small = (max(1, int(rounded(width * scale))), max(1, int(rounded(height * scale))))
        Image.new("RGB", small, photos.GREY).save(tmp_path / "a.png")
        page = shown(tmp_path, "a.png", (0, 0, width, height), width, height)
        assert page["truth"][0]["box"] == pytest.approx([0, 0, page["width"], page["height"]])


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT + 9), (2 * WIDTH, HEIGHT), (HEIGHT, WIDTH)])
def test_annotations_of_another_image(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", (WIDTH, HEIGHT), photos.GREEN).save(tmp_path / "a.png")
    words = rf"a\.png has height 48 and width 80, and height {size[1]} and width {size[0]} by its"
    with pytest.raises(InputError, match=words + ".*--images"):
        shown(tmp_path, "a.png", SQUARE, *size)


def test_another_folder_of_images_is_refused_before_an_evaluation(tmp_path: Path, refusal) -> None:
    """Nothing is printed or written; images that are read, and fit, are evaluated."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    thing = {"id": 1, "image_id": 5, "category_id": 1, "bbox": SQUARE, "area": 9, "iscrowd": 0}
    content = {"categories": [{"id": 1, "name": "a"}], "annotations": [thing]}
    files = [tmp_path / name for name in ("found.json", "truth.json", "n.json", "page.html")]
    found, truth, numbers, page = files
    found.write_text(json.dumps([{**thing, "score": 0.9}]))
    flags = [found, truth, "--out", numbers, "--html", page, "--images", tmp_path]
    for height in (HEIGHT + 9, HEIGHT):
        image = {"id": 5, "file_name": "a.png", "width": WIDTH, "height": height}
        truth.write_text(json.dumps({**content, "images": [image]}))
        if height != HEIGHT:
            said = refusal(tool, *flags)
            assert "a.png has height 48 and width 80, and height 57 and width 80 by its" in said
            assert not numbers.exists() and not page.exists()
    tool.main([str(flag) for flag in flags])
    assert numbers.exists() and page.exists()
