"""Pictures of the page. Oracles: the image's pixels, Pillow's own drawing of the outlines."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pycocotools", reason="masks are read with pycocotools")
pytest.importorskip("matplotlib", reason="outlines are drawn with a dependency of matplotlib")
pytest.importorskip("PIL", reason="images are read with Pillow")

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from ws_det.errors import InputError
from ws_det.evaluation.report_choice import Kept
from ws_det.evaluation.report_errors import sort_errors
from ws_det.evaluation.report_pictures import SIDE, picture

WIDTH, HEIGHT = 840, 630  # shown at 560 x 420: two thirds
IMAGE = {"id": 5, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}
Y, X = np.mgrid[:HEIGHT, :WIDTH]
RING = ((X - 300) ** 2 + (Y - 300) ** 2 < 150**2) & ((X - 300) ** 2 + (Y - 300) ** 2 > 70**2)
AT_EDGE = (X > 700) & (Y < 200)


def rle(mask: np.ndarray) -> dict[str, Any]:
    coded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": coded["size"], "counts": coded["counts"].decode()}


def entry(mask: np.ndarray, category: int, **more: Any) -> dict[str, Any]:
    shape = {"segmentation": rle(mask), "area": float(mask.sum())}
    return {"image_id": 5, "category_id": category, **shape, **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pixels = np.stack([X % 256, Y % 256, (X + Y) // 8 % 256], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path


@pytest.fixture
def shown(folder: Path) -> dict[str, Any]:
    """A ring that is found, an edge found too weakly, a crowd, and a wrong detection."""
    truth = {
        "images": [IMAGE],
        "categories": [{"id": 9, "name": "nine"}, {"id": 2, "name": "two"}],
        "annotations": [
            entry(AT_EDGE, 2, id=1, bbox=[701, 0, 139, 200], iscrowd=0),
            entry(RING, 9, id=2, iscrowd=0),
            entry(X < 50, 9, id=3, iscrowd=1),
        ],
    }
    found = [
        entry(RING, 9, score=0.8765),
        entry((X > 600) & (Y > 500), 2, score=0.7),
        entry(AT_EDGE, 2, score=0.2),
    ]
    kept = Kept(found, sort_errors(truth, found, "segm"), 0.5)
    return picture(truth, IMAGE, folder, [kept])


def drawn(outline: str, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) that an SVG path holds, even-odd."""
    inside = np.zeros(size[::-1], bool)
    for part in outline.split("M")[1:]:
        assert re.fullmatch(r"[\d. L]+Z", part)
        points = [tuple(map(float, point.split())) for point in part[:-1].split("L")]
        canvas = Image.new("1", size)
        ImageDraw.Draw(canvas).polygon(points, fill=1)
        inside ^= np.asarray(canvas)
    return inside


def test_outlines_hold_the_masks(shown: dict[str, Any]) -> None:
    """IoU above 0.96: a grid of 240 pixels rounds the border of shapes 90 pixels across."""
    size = shown["width"], shown["height"]
    crowd, ring, edge = sorted(
        shown["truth"], key=lambda thing: (not thing["crowd"], thing["label"] == 0)
    )
    for thing, mask in ((ring, RING), (edge, AT_EDGE), (crowd, X < 50)):
        small = Image.fromarray(mask).resize(size)
        got = drawn(thing["outline"], size)
        overlap = (got & np.asarray(small)).sum() / (got | np.asarray(small)).sum()
        assert overlap > 0.96


def test_boxes_are_scaled_and_made_from_masks(shown: dict[str, Any]) -> None:
    """Two thirds of the annotation's, to a tenth of a pixel."""
    edge = next(thing for thing in shown["truth"] if thing["label"] == 0)
    assert edge["box"] == pytest.approx([701 * 2 / 3, 0, 139 * 2 / 3, 200 * 2 / 3], abs=0.051)
    (ring, *_) = [thing for thing in shown["runs"][0] if thing["label"] == 1]
    assert ring["box"] == pytest.approx(
        [151 * 2 / 3, 151 * 2 / 3, 299 * 2 / 3, 299 * 2 / 3], abs=0.051
    )


def test_what_became_of_things(shown: dict[str, Any]) -> None:
    """Labels are in the order of the ids; what scores below the threshold is left out."""
    found = {(t["label"], t["score"], t["outcome"]) for t in shown["runs"][0]}
    assert found == {(1, 0.876, "correct"), (0, 0.7, "background")}
    truth = {(t["label"], t["crowd"], *t["found"]) for t in shown["truth"]}
    assert truth == {(0, False, False), (1, False, True), (1, True, False)}
    areas = [t["box"][2] * t["box"][3] for t in shown["truth"]]
    assert areas == sorted(areas, reverse=True)  # the small one is drawn last, on top


def test_image_is_small_and_the_same(shown: dict[str, Any], folder: Path) -> None:
    """A mean difference below 4 of 255, which is what JPEG takes from this pattern."""
    assert (shown["width"], shown["height"]) == (SIDE, SIDE * HEIGHT // WIDTH)
    head, _, coded = shown["uri"].partition(",")
    assert head == "data:image/jpeg;base64" and len(coded) < 150_000
    got = np.asarray(Image.open(io.BytesIO(base64.b64decode(coded))), float)
    expected = Image.open(folder / "a.png").resize((shown["width"], shown["height"]), Image.BICUBIC)
    assert np.abs(got - np.asarray(expected, float)).mean() < 4


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_an_unreadable_image_is_named(folder: Path, content: bytes | None) -> None:
    name = "b.png"
    if content is not None:
        (folder / name).write_bytes(content)
    truth = {"images": [IMAGE], "categories": [{"id": 1, "name": "one"}], "annotations": []}
    with pytest.raises(InputError, match=r"b\.png cannot be read .*--images"):
        picture(truth, {**IMAGE, "file_name": name}, folder, [])
