"""The grid of truth beside prediction. Oracles: pixels, matplotlib's artists, pycocotools."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("numpy", reason="ws_det.pictures needs numpy")
pytest.importorskip("matplotlib", reason="ws_det.pictures needs matplotlib")
pytest.importorskip("pycocotools", reason="ws_det.pictures needs pycocotools")
pytest.importorskip("cv2", reason="the images are drawn with OpenCV")

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ws_det import pictures
from ws_det.errors import InputError
from ws_det.pictures import Drawn, Pair, decode_mask, draw_grid, name_below
from ws_det.scene import CATEGORIES
from ws_det.shapes import ShapesSpec, make_shapes

NAMES = list(CATEGORIES.values())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures") / "set"
    make_shapes(root, ShapesSpec(train_images=1, val_images=50))
    return root


@pytest.fixture(scope="module")
def coco(root: Path) -> COCO:
    return COCO(str(root / "annotations/instances_val2017.json"))


def things(coco: COCO, image_id: int) -> list[Drawn]:
    """The truth, read with pycocotools and without the code tested."""
    drawn = []
    for annotation in coco.imgToAnns[image_id]:
        x, y, w, h = annotation["bbox"]
        drawn.append(
            Drawn(
                list(CATEGORIES).index(annotation["category_id"]),
                np.array([x, y, x + w, y + h]),
                coco.annToMask(annotation).astype(bool),
                iscrowd=bool(annotation["iscrowd"]),
            )
        )
    return drawn


@pytest.fixture(scope="module")
def pairs(coco: COCO, root: Path) -> list[Pair]:
    """Three images with things on them, all found."""
    ids = [i for i in coco.imgs if coco.imgToAnns[i]][:3]
    files = [root / "val2017" / coco.imgs[i]["file_name"] for i in ids]
    return [
        Pair(file.name, imread(file), things(coco, i), things(coco, i))
        for i, file in zip(ids, files)
    ]


def panels(path: Path) -> np.ndarray:
    """The columns of a grid's pictures without their titles, (4, H, W, 3) of each row."""
    image = imread(path)[..., :3]
    return np.stack(np.array_split(image[:, : image.shape[1] // 4 * 4], 4, axis=1))


def differing(left: np.ndarray, right: np.ndarray) -> float:
    """Share of pixels that are not nearly equal."""
    return float((np.abs(left - right).max(axis=2) > 0.1).mean())


def test_what_was_found_looks_like_the_truth(pairs: list[Pair], tmp_path: Path) -> None:
    """Panels differ by titles alone, 2 % of the pixels; where nothing was found, by the masks."""
    draw_grid(pairs[:2], NAMES, tmp_path / "new" / "found.png")
    truth, found, *second = panels(tmp_path / "new" / "found.png")
    assert differing(truth, found) < 0.02 and differing(*second) < 0.02
    draw_grid([pair._replace(found=[]) for pair in pairs[:2]], NAMES, tmp_path / "none.png")
    truth, found, *_ = panels(tmp_path / "none.png")
    assert differing(truth, found) > 0.06


def test_two_images_a_row(pairs: list[Pair], tmp_path: Path) -> None:
    """Three images: the place of a fourth stays white. None at all is a white row."""
    draw_grid(pairs, NAMES, tmp_path / "three.png")
    image = imread(tmp_path / "three.png")[..., :3]
    assert image.shape == (750, 1400, 3)
    assert (image[380:, 720:] == 1).all() and not (image[380:, :680] == 1).all()
    draw_grid([], NAMES, tmp_path / "none.png")
    assert (imread(tmp_path / "none.png") == 1).all()


def test_names_lead_nowhere_but_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is below a folder keeps its folders; of seeded names none leads out of another one."""
    monkeypatch.chdir(tmp_path)
    for path, folder in (
        ("set/images/cam1/0001.jpg", "set/images"),
        ("set/images/cam1/0001.jpg", "set/images/"),
        (f"{tmp_path}/set/images/cam1/0001.jpg", "set/images"),
        ("cam1/0001.jpg", ""),
        ("s3://bucket/images/cam1/0001.jpg", "s3://bucket/images"),
    ):
        assert name_below(path, folder) == "cam1/0001.jpg"
    rng, parts = random.Random(0), ["..", "a", ".", "", "~", "/", "..a", "a.png", "s3:", "\\"]
    for _ in range(2000):
        path, folder = ("/".join(rng.choices(parts, k=rng.randint(1, 6))) for _ in range(2))
        name = name_below(path, folder)
        lands = os.path.normpath(tmp_path / "show" / name)
        assert Path(lands).is_relative_to(tmp_path / "show") and not os.path.isabs(name), path


def test_a_mask_of_another_size_is_refused() -> None:
    rle = coco_mask.encode(np.ones((3, 4), np.uint8, order="F"))
    assert decode_mask(rle, (3, 4)).all()
    with pytest.raises(InputError, match=r"\[3, 4\], and its image \[4, 3\]"):
        decode_mask(rle, (4, 3))


def test_boxes_alone_are_drawn(pairs: list[Pair], tmp_path: Path) -> None:
    """A detector without masks gives none; its boxes show."""
    boxes = [replace(thing, mask=None, score=1.0) for thing in pairs[0].found]
    draw_grid([pairs[0]._replace(found=boxes)], NAMES, tmp_path / "boxes.png")
    draw_grid([pairs[0]._replace(found=[])], NAMES, tmp_path / "none.png")
    boxes, none = panels(tmp_path / "boxes.png")[1], panels(tmp_path / "none.png")[1]
    assert 0.005 < differing(boxes, none) < 0.2


def test_things_are_drawn_where_they_are(coco: COCO) -> None:
    """Boxes and words equal the annotations, crowds dashed; a prediction has its score."""
    crowded = [a["image_id"] for a in coco.anns.values() if a["iscrowd"]]
    assert crowded
    for image_id in [1, 2, 3, crowded[0]]:
        annotations, truth = coco.imgToAnns[image_id], things(coco, image_id)
        for score, end in ((None, ""), (0.512, " 0.51")):
            ax = Figure().subplots()
            scored = [replace(thing, score=score) for thing in truth]
            pictures._draw(ax, np.zeros((128, 128, 3), np.uint8), scored, NAMES, "truth")
            drawn = [patch.get_bbox().bounds for patch in ax.patches]
            np.testing.assert_allclose(drawn, [a["bbox"] for a in annotations])
            dashed = [patch.get_linestyle() in ("dashed", "--") for patch in ax.patches]
            assert dashed == [bool(a["iscrowd"]) for a in annotations]
            words = [CATEGORIES[a["category_id"]] + " crowd" * a["iscrowd"] for a in annotations]
            assert [text.get_text() for text in ax.texts] == [word + end for word in words]


def test_masks_decode_as_pycocotools_do(coco: COCO) -> None:
    """Polygons, and run lengths as numbers and as bytes."""
    kinds = set()
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        size = image["height"], image["width"]
        expected = coco.annToMask(annotation).astype(bool)
        for segmentation in (annotation["segmentation"], coco_mask.encode(expected.copy("F"))):
            counts = segmentation["counts"] if isinstance(segmentation, dict) else None
            kinds.add(type(counts))
            found = decode_mask(segmentation, size)
            assert found.dtype == bool
            np.testing.assert_array_equal(found, expected)
    assert kinds >= {type(None), list, bytes}
