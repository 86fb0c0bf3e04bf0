"""Truth and predictions of a test. Oracle: the panels' pixels, where truth is predicted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("mmdet")

import torch
from matplotlib.image import imread
from mmdet.datasets import CocoDataset
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.structures import InstanceData
from pycocotools.coco import COCO

from ws_det.mmdet import pictures
from ws_det.mmdet.pictures import PicturesHook, draw_predictions
from ws_det.pictures import Pair
from ws_det.scene import CATEGORIES
from ws_det.shapes import ShapesSpec, make_shapes

ANNOTATIONS = "annotations/instances_val2017.json"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures") / "set"
    make_shapes(root, ShapesSpec(train_images=1, val_images=50))
    return root


@pytest.fixture(scope="module")
def dataset(root: Path) -> CocoDataset:
    register_all_modules()
    return CocoDataset(
        data_root=str(root),
        ann_file=ANNOTATIONS,
        data_prefix=dict(img="val2017/"),
        metainfo=dict(classes=tuple(CATEGORIES.values())),
        test_mode=True,
    )


def perfect(root: Path, image_id: int, masks: bool = True) -> DetDataSample:
    """The truth as a model would return it, read with pycocotools and without the code tested."""
    coco = COCO(str(root / ANNOTATIONS))
    annotations = coco.imgToAnns[image_id]
    boxes = np.array([a["bbox"] for a in annotations], np.float32)
    found = InstanceData(
        bboxes=torch.from_numpy(
            np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        ),
        labels=torch.tensor([list(CATEGORIES).index(a["category_id"]) for a in annotations]),
        scores=torch.ones(len(annotations)),
    )
    if masks:
        stack = np.stack([coco.annToMask(a) for a in annotations])
        found.masks = torch.from_numpy(stack.astype(bool))
    return DetDataSample(pred_instances=found, metainfo=dict(img_id=image_id))


def panels(path: Path) -> np.ndarray:
    """The columns of a grid's pictures without their titles, (4, H, W, 3) of each row."""
    image = imread(path)[..., :3]
    return np.stack(np.array_split(image[:, : image.shape[1] // 4 * 4], 4, axis=1))


def differing(left: np.ndarray, right: np.ndarray) -> float:
    """Share of pixels that are not nearly equal."""
    return float((np.abs(left - right).max(axis=2) > 0.1).mean())


def without_crowds(dataset: CocoDataset) -> list[int]:
    infos = map(dataset.get_data_info, range(len(dataset)))
    return [i["img_id"] for i in infos if not any(x["ignore_flag"] for x in i["instances"])]


def test_a_perfect_prediction_looks_like_the_truth(
    dataset: CocoDataset, root: Path, tmp_path: Path
) -> None:
    """Panels differ by titles and scores alone; without a prediction they differ by the masks."""
    ids = without_crowds(dataset)[:2]
    draw_predictions(dataset, [perfect(root, i) for i in ids], tmp_path / "new" / "perfect.png")
    truth, predicted, *second = panels(tmp_path / "new" / "perfect.png")
    assert differing(truth, predicted) < 0.06 and differing(*second) < 0.06
    poor = [perfect(root, i) for i in ids]
    for sample in poor:
        sample.pred_instances.scores[:] = 0.49  # under the threshold
    draw_predictions(dataset, poor, tmp_path / "poor.png")
    truth, predicted, *_ = panels(tmp_path / "poor.png")
    things = dataset.get_data_info(ids[0] - 1)["instances"]
    assert things and differing(truth, predicted) > 0.06


def test_boxes_alone(root: Path) -> None:
    """A detector without masks gives none."""
    found = pictures._predicted(perfect(root, 1, masks=False), 0.5)
    assert found and all(thing.mask is None for thing in found)


def test_truth_is_the_annotations(dataset: CocoDataset, root: Path) -> None:
    """Oracle: pycocotools' boxes, masks and crowds, which the test pipeline does not load."""
    coco = COCO(str(root / ANNOTATIONS))
    crowded = [a["image_id"] for a in coco.anns.values() if a["iscrowd"]]
    assert crowded
    for image_id in [1, 2, 3, crowded[0]]:
        annotations = coco.imgToAnns[image_id]
        truth = pictures._truth(dataset.get_data_info(image_id - 1), (128, 128))
        assert len(truth) == len(annotations)
        for annotation, thing in zip(annotations, truth):
            x, y, w, h = annotation["bbox"]
            np.testing.assert_allclose(thing.box, [x, y, x + w, y + h])
            np.testing.assert_array_equal(thing.mask, coco.annToMask(annotation))
            assert list(CATEGORIES)[thing.label] == annotation["category_id"]
            assert thing.iscrowd == bool(annotation["iscrowd"]) and thing.score is None


def test_order_and_colours(
    dataset: CocoDataset, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the files' names, and matplotlib's reader; decoders differ in rounding alone."""
    drawn: list[Pair] = []
    monkeypatch.setattr(pictures, "draw_grid", lambda pairs, *_: drawn.extend(pairs))
    draw_predictions(dataset, [perfect(root, i) for i in (3, 1, 2)], "unused.png", count=2)
    assert [pair.title for pair in drawn] == ["000000000003.jpg", "000000000001.jpg"]
    for pair in drawn:
        expected = imread(root / "val2017" / pair.title).astype(float)
        assert np.abs(pair.image - expected).max() <= 3


def test_hook_draws_the_first(
    dataset: CocoDataset, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of two, five pictures wanted: the picture equals that of the first five."""
    samples = [perfect(root, i) for i in range(1, 9)]
    draw_predictions(dataset, samples[:5], tmp_path / "expected.png")
    hook = PicturesHook(str(tmp_path / "found.png"), count=5)
    runner = SimpleNamespace(test_dataloader=SimpleNamespace(dataset=dataset))
    for start in range(0, 8, 2):
        hook.after_test_iter(runner, start // 2, None, samples[start : start + 2])
    hook.after_test_epoch(runner)
    np.testing.assert_array_equal(imread(tmp_path / "found.png"), imread(tmp_path / "expected.png"))
