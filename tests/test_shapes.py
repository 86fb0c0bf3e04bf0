"""The synthetic set. Oracle: pycocotools' own decoding and loading of what was written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
coco_mask = pytest.importorskip("pycocotools.mask")
from pycocotools.coco import COCO  # noqa: E402

from ws_det import scene, shapes  # noqa: E402
from ws_det.errors import InputError  # noqa: E402
from ws_det.scene import CATEGORIES, Thing, draw_image  # noqa: E402
from ws_det.shapes import ShapesSpec, make_shapes, segmentation  # noqa: E402

SPEC = ShapesSpec(train_images=60, val_images=5, seed=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes") / "set"
    assert make_shapes(root, SPEC)
    return root


@pytest.fixture(scope="module")
def coco(root: Path) -> COCO:
    return COCO(str(root / "annotations" / "instances_train2017.json"))


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def drawn(number: int) -> tuple[np.ndarray, list[Thing]]:
    return draw_image(np.random.default_rng([SPEC.seed, False, number]), SPEC.image_size)


def test_annotations_decode_to_the_visible_parts(coco: COCO) -> None:
    """Masks, areas and boxes are pycocotools' own; masks of one image never overlap."""
    for number in coco.getImgIds():
        annotations = coco.imgToAnns[number]
        things = drawn(number)[1]
        masks = [coco.annToMask(a) for a in annotations]
        assert len(things) == len(annotations) > 0
        for thing, annotation, mask in zip(things, annotations, masks):
            np.testing.assert_array_equal(mask, thing.mask)
            rle = coco_mask.encode(np.asfortranarray(mask))
            assert annotation["area"] == coco_mask.area(rle) == mask.sum() > 0
            assert annotation["bbox"] == coco_mask.toBbox(rle).tolist()
        assert np.sum(masks, axis=0).max() == 1


def test_visible_is_what_nothing_in_front_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: painting whole shapes back to front, the later over the earlier."""
    front, behind, hidden = np.zeros((3, 64, 64), bool)
    front[10:30, 10:30] = True
    behind[20:50, 20:50] = True  # 800 of 900 pixels stay
    hidden[12:32, 12:32] = True  # 76 of 400 pixels would stay: under half
    whole = [Thing(1, front), Thing(3, hidden), Thing(4, behind)]
    monkeypatch.setattr(scene, "_scene", lambda rng, size: whole)
    canvas = np.zeros((64, 64), int)
    canvas[behind] = 4
    canvas[front] = 1
    things = draw_image(np.random.default_rng(0), 64)[1]
    assert [thing.category_id for thing in things] == [1, 4]
    for thing in things:
        np.testing.assert_array_equal(thing.mask, canvas == thing.category_id)


def test_pixels_show_the_masks() -> None:
    """Every visible part differs in colour from the background around it, as the eye sees it."""
    for number in range(20):
        image, things = drawn(number)
        background = ~np.any([t.mask for t in things], axis=0)
        for thing in things:
            inside = np.median(image[thing.mask], axis=0)
            outside = np.median(image[background], axis=0)
            # Noise has a deviation of at most 8 and the light spans 40.
            assert np.linalg.norm(inside - outside) > 40


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (["....", ".##.", ".##.", "...."], "one polygon"),
        (["##..", "##..", "...#", "...#"], "two polygons"),
        (["####", "#..#", "#..#", "####"], "RLE"),
        (["#...", "....", "....", "...#"], "two polygons"),
        (["#...", ".#..", "..#.", "...#"], "one polygon"),
    ],
)
def test_segmentation_is_exact(rows: list[str], kind: str) -> None:
    """Oracle: pycocotools decodes each form to the drawn pixels; also at the image's corners."""
    mask = np.array([[cell == "#" for cell in row] for row in rows])
    coded = segmentation(mask)
    if kind == "RLE":
        assert isinstance(coded["counts"], str)
        np.testing.assert_array_equal(coco_mask.decode(coded), mask)
    else:
        assert len(coded) == (2 if kind == "two polygons" else 1)
        rle = coco_mask.merge(coco_mask.frPyObjects(coded, 4, 4))
        np.testing.assert_array_equal(coco_mask.decode(rle), mask)
    crowd = segmentation(mask, iscrowd=True)
    assert isinstance(crowd["counts"], list)
    rle = coco_mask.frPyObjects(crowd, 4, 4)
    np.testing.assert_array_equal(coco_mask.decode(rle), mask)


def test_set_has_what_coco_has(coco: COCO) -> None:
    """Polygons, several polygons, RLE, crowds, gaps in category ids, small and medium things."""
    annotations = list(coco.anns.values())
    plain = [a for a in annotations if not a["iscrowd"]]
    crowds = [a for a in annotations if a["iscrowd"]]
    assert crowds and all(isinstance(a["segmentation"]["counts"], list) for a in crowds)
    polygons = [a["segmentation"] for a in plain if isinstance(a["segmentation"], list)]
    assert len(polygons) < len(plain) and any(len(p) > 1 for p in polygons)
    ids = sorted(coco.getCatIds())
    assert ids != list(range(1, len(ids) + 1)) and {a["category_id"] for a in plain} == set(ids)
    assert min(a["area"] for a in plain) < 32**2 < max(a["area"] for a in plain)


def test_colour_does_not_tell_the_class() -> None:
    """A nearest-neighbour vote on mean colours does no better than chance."""
    labels, colours = [], []
    for number in range(150):
        image, things = drawn(number)
        labels += [t.category_id for t in things]
        colours += [image[t.mask].mean(axis=0) for t in things]
    labels, colours = np.array(labels), np.array(colours)
    distance = np.linalg.norm(colours[:, None] - colours, axis=2)
    np.fill_diagonal(distance, np.inf)
    nearest = labels[np.argsort(distance)[:, :15]]
    votes = np.array([Counter(row).most_common(1)[0][0] for row in nearest])
    # Chance is 1/5; over some 500 shapes its deviation is 0.018, and 0.29 is 5 of them.
    assert len(labels) > 400 and (votes == labels).mean() < 0.29


def test_same_seed_same_bytes(root: Path, tmp_path: Path) -> None:
    """Annotations and images repeat to the byte; another seed, or split, draws others."""
    make_shapes(tmp_path / "again", SPEC)
    make_shapes(tmp_path / "other", ShapesSpec(60, 5, seed=2))
    assert files(tmp_path / "again") == files(root)
    other = files(tmp_path / "other")
    assert all(other[name] != content for name, content in files(root).items())
    first = "2017/000000000001.jpg"
    assert files(root)[f"train{first}"] != files(root)[f"val{first}"]


def test_same_bytes_in_another_process(root: Path, tmp_path: Path) -> None:
    """Nothing depends on the process, such as the order of a set or a hash seed."""
    code = "from ws_det.shapes import *; make_shapes({!r}, ShapesSpec(60, 5, seed=1))"
    command = [sys.executable, "-c", code.format(str(tmp_path / "set"))]
    subprocess.run(command, cwd=Path(shapes.__file__).parents[1], check=True)
    assert files(tmp_path / "set") == files(root)


def test_same_set_is_kept(root: Path) -> None:
    """A second call with the same parameters touches no file."""
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert not make_shapes(root, SPEC)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_run_leaves_nothing(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the set nor a part of it; the next run writes it whole."""
    left = iter(range(3))

    def draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[Thing]]:
        if next(left, None) is None:
            raise error
        return draw_image(rng, size)

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(shapes, "draw_image", draw)
        make_shapes(tmp_path / "set", SPEC)
    assert not list(tmp_path.iterdir())
    assert make_shapes(tmp_path / "set", ShapesSpec(1, 1))


def test_killed_run_is_cleared(tmp_path: Path) -> None:
    """What a run that could not clean up has left is no obstacle and does not stay."""
    (tmp_path / ".set.partial" / "train2017").mkdir(parents=True)
    assert make_shapes(tmp_path / "set", ShapesSpec(1, 1))
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("train_images", 0), ("val_images", -1), ("image_size", 8), ("seed", -3)],
)
def test_bad_value_is_refused(field: str, value: int) -> None:
    """The message has the value and what would do."""
    with pytest.raises(InputError, match=f"{field} is {value}: give at least"):
        ShapesSpec(**{field: value})


def test_bad_folder_is_refused(root: Path, tmp_path: Path) -> None:
    """A folder with something else stays as it is; one sentence says why."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="mine is not empty and no shapes set"):
        make_shapes(tmp_path / "mine", SPEC)
    with pytest.raises(InputError, match=r"thesis\.tex is not empty"):
        make_shapes(tmp_path / "mine" / "thesis.tex", SPEC)
    with pytest.raises(InputError, match=r"cannot be written to .*thesis\.tex"):
        make_shapes(tmp_path / "mine" / "thesis.tex" / "set", SPEC)
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "thesis.tex"]
    with pytest.raises(InputError, match=r'other parameters, \{"train_images": 60'):
        make_shapes(root, ShapesSpec(61, 5, seed=1))


def test_mmdet_loads_it(root: Path) -> None:
    """MMDetection's CocoDataset and LoadAnnotations give the drawn masks, crowds ignored."""
    pytest.importorskip("mmdet")
    from mmdet.datasets import CocoDataset
    from mmdet.utils import register_all_modules

    register_all_modules()
    dataset = CocoDataset(
        data_root=str(root),
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        metainfo=dict(classes=tuple(CATEGORIES.values())),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
        ],
    )
    assert len(dataset) == SPEC.train_images
    for sample in map(dataset.__getitem__, range(SPEC.train_images)):
        things = drawn(sample["img_id"])[1]
        np.testing.assert_array_equal(sample["gt_masks"].masks, [t.mask for t in things])
        names = [list(CATEGORIES)[label] for label in sample["gt_bboxes_labels"]]
        assert names == [t.category_id for t in things]
        assert sample["gt_ignore_flags"].tolist() == [t.iscrowd for t in things]


def test_tool(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tool's flags reach the set: same parameters, same bytes."""
    from tools.make_shapes_coco import main

    flags = ["--train-images", "60", "--val-images", "5", "--seed", "1"]
    main([str(tmp_path / "set"), *flags])
    main([str(tmp_path / "set"), *flags])
    wrote, kept = capsys.readouterr().out.splitlines()
    assert "wrote 60 images to train on and 5 held out" in wrote and "kept the same set" in kept
    assert files(tmp_path / "set") == files(root)
    assert json.loads((tmp_path / "set" / "shapes.json").read_text())["image_size"] == 128
