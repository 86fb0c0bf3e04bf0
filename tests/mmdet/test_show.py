"""Where the pictures of a test go, and of which pixels. Oracles: EXIF's words; MMDetection's own

visualizer and ``draw_grid`` on the upright picture; the names of the files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("mmdet")

import cv2
import mmcv
import numpy as np
import torch
from mmdet.datasets import BaseSegDataset, CocoDataset, ConcatDataset, VOCDataset
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData
from PIL import Image

from tests import photos
from tests.photos import FORMATS, HEIGHT, SIDES, SQUARE, WIDTH, square_of, write_photo
from tools import test as tool
from ws_det.errors import InputError
from ws_det.mmdet.pictures import NamedVisualizationHook, PicturesHook
from ws_det.mmdet.preflight import build_model
from ws_det.pictures import Drawn, Pair, draw_grid

META = {"classes": ("square",), "palette": [(220, 20, 60)]}


def write_truth(
    path: Path, names: Sequence[str], size: tuple[int, int], box: Sequence[int] = SQUARE
) -> None:
    """Write the annotations of images with one square each; all sets count them from 1."""
    sides = {"width": size[0], "height": size[1]}
    images = [{"id": key, "file_name": name, **sides} for key, name in enumerate(names, 1)]
    x, y, width, height = box
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    thing = {"category_id": 1, "bbox": [*box], "area": width * height, "iscrowd": 0}
    thing["segmentation"] = [corners]
    things = [{**thing, "id": image["id"], "image_id": image["id"]} for image in images]
    categories = [{"id": 1, "name": "square"}]
    content = {"images": images, "annotations": things, "categories": categories}
    path.write_text(json.dumps(content))


def dataset(
    folder: Path,
    names: Sequence[str],
    size: tuple[int, int] = (WIDTH, HEIGHT),
    box: Sequence[int] = SQUARE,
    file: str = "truth",
    **loader: Any,
) -> CocoDataset:
    register_all_modules()
    write_truth(folder / f"{file}.json", names, size, box)
    return CocoDataset(
        ann_file=str(folder / f"{file}.json"),
        data_prefix=dict(img=str(folder / "images")),
        metainfo=META,
        pipeline=[dict(type="LoadNamedImage", **loader)],
        test_mode=True,
    )


def predictions(data: Any, box: Sequence[int] = SQUARE, score: float = 0.9) -> list[DetDataSample]:
    """The square of each image, found."""
    samples = []
    for index in range(len(data)):
        info = data.get_data_info(index)
        corners = torch.tensor([[box[0], box[1], box[0] + box[2], box[1] + box[3]]]).float()
        found = InstanceData(
            bboxes=corners, labels=torch.tensor([0]), scores=torch.tensor([score])
        )
        shown = {key: info[key] for key in ("img_id", "img_path")}
        shown["ori_shape"] = (info["height"], info["width"])
        samples.append(DetDataSample(metainfo=shown, pred_instances=found))
    return samples


def visualizer() -> DetLocalVisualizer:
    shown = DetLocalVisualizer.get_instance("show")
    shown.dataset_meta = META
    return shown


def test(data: Any, folder: Path, samples: Sequence[DetDataSample]) -> None:
    """Run the hooks of ``--show-dir``."""
    visualizer()
    hooks = (
        NamedVisualizationHook(draw=True, test_out_dir=str(folder)),
        PicturesHook(str(folder / "predictions.png")),
    )
    runner = SimpleNamespace(test_dataloader=SimpleNamespace(dataset=data))
    for sample in samples:
        for hook in hooks:
            hook.after_test_iter(runner, 0, {}, [sample])
    for hook in hooks:
        hook.after_test_epoch(runner)


test.__test__ = False


def photo_set(folder: Path, kind: str) -> list[str]:
    """Write a photo of each orientation, all of one file name."""
    names = [f"cam{orientation}/0001.{kind}" for orientation in SIDES]
    for name, orientation in zip(names, SIDES):
        (folder / "images" / name).parent.mkdir(parents=True)
        write_photo(folder / "images" / name, orientation)
    return names


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", FORMATS)
def test_boxes_surround_in_upright_photos(tmp_path: Path, kind: str) -> None:
    """A picture of each, named as it is.

    JPEG and AVIF, written twice, are off by 1.6 and 2.6 of 255 on average; a square at another
    place would be by 10.
    """
    names = photo_set(tmp_path, kind)
    data = dataset(tmp_path, names)
    samples = predictions(data)
    test(data, tmp_path / "show", samples)
    assert below(tmp_path / "show") == {*names, "predictions.png"}
    exact = kind in ("png", "webp", "tif")
    for name, sample in zip(names, samples):
        visualizer().add_datasample(
            "x", photos.upright_pixels(), sample, out_file=str(tmp_path / "theirs.png")
        )
        ours = mmcv.imread(str(tmp_path / "show" / name)).astype(int)
        off = np.abs(ours - mmcv.imread(str(tmp_path / "theirs.png")))
        assert off.max() == 0 if exact else off.mean() < 4
    x, y, width, height = SQUARE
    box, mask = np.array([x, y, x + width, y + height]), np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + height, x : x + width] = True
    truth, found = [Drawn(0, box, mask)], [Drawn(0, box, None, 0.9)]
    pairs = [Pair(name, photos.upright_pixels(), truth, found) for name in names]
    draw_grid(pairs, ["square"], tmp_path / "theirs.png")
    ours = mmcv.imread(tmp_path / "show/predictions.png").astype(int)
    off = np.abs(ours - mmcv.imread(tmp_path / "theirs.png"))
    assert off.max() == 0 if exact else off.mean() < 1  # most of a grid is white


def test_a_loader_that_does_not_turn(tmp_path: Path) -> None:
    """The model sees the stored photo, and so does who looks at the pictures."""
    (tmp_path / "images").mkdir()
    write_photo(tmp_path / "images/a.png", 6)
    box = square_of(photos.stored(photos.upright_pixels(), 6))
    data = dataset(
        tmp_path, ["a.png"], (HEIGHT, WIDTH), box, color_type="color_ignore_orientation"
    )
    test(data, tmp_path / "show", predictions(data, box, score=0.0))  # under the threshold
    drawn = mmcv.imread(str(tmp_path / "show/a.png"), channel_order="rgb")
    assert square_of(drawn[:, :HEIGHT]) == box  # truth is on the left


def test_several_sets(tmp_path: Path) -> None:
    """They count their images alike, and two have annotation files of one name."""
    (tmp_path / "images").mkdir()
    sets = []
    for place, file in enumerate(("day", "night", "night")):
        folder = tmp_path / str(place)
        (folder / "images").mkdir(parents=True)
        pixels = np.full((HEIGHT, WIDTH, 3), 40 * (place + 1), np.uint8)
        Image.fromarray(pixels).save(folder / "images/a.png")
        sets.append(dataset(folder, ["a.png"], file=file))
    data = ConcatDataset(sets)
    test(data, tmp_path / "show", predictions(data, score=0.0))
    folders = {"day": 40, "night-2": 80, "night-3": 120}
    expected = {f"{folder}/{name}" for folder in folders for name in ("a.png", "predictions.png")}
    assert below(tmp_path / "show") == expected
    for folder, colour in folders.items():
        assert (mmcv.imread(str(tmp_path / "show" / folder / "a.png")) == colour).all()


def test_sets_that_are_not_in_cocos_format(tmp_path: Path) -> None:
    """Semantic maps, which have no ids and no objects, and VOC's XML."""
    register_all_modules()
    names = photo_set(tmp_path, "png")
    pipeline = [dict(type="LoadNamedImage")]
    maps = BaseSegDataset(
        data_prefix=dict(img_path=str(tmp_path / "images")),
        img_suffix=".png",
        metainfo=META,
        pipeline=pipeline,
        test_mode=True,
    )
    shown = [
        DetDataSample(metainfo={"img_path": info["img_path"], "ori_shape": (HEIGHT, WIDTH)})
        for info in map(maps.get_data_info, range(len(maps)))
    ]
    test(maps, tmp_path / "maps", shown)
    assert below(tmp_path / "maps") == {*names, "predictions.png"}
    for name in ("JPEGImages/a.jpg", "Annotations/a.xml"):
        (tmp_path / "voc/VOC2007" / name).parent.mkdir(parents=True)
    write_photo(tmp_path / "voc/VOC2007/JPEGImages/a.jpg", 6)
    sides = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    corners = "<xmin>9</xmin><ymin>5</ymin><xmax>28</xmax><ymax>20</ymax>"
    thing = f"<object><name>square</name><bndbox>{corners}</bndbox></object>"
    xml = f"<annotation>{sides}{thing}</annotation>"
    (tmp_path / "voc/VOC2007/Annotations/a.xml").write_text(xml)
    (tmp_path / "voc/test.txt").write_text("a\n")
    voc = VOCDataset(
        data_root=str(tmp_path / "voc"),
        ann_file="test.txt",
        data_prefix=dict(sub_data_root="VOC2007/"),
        metainfo=META,
        pipeline=pipeline,
        test_mode=True,
    )
    test(voc, tmp_path / "show", predictions(voc))
    assert below(tmp_path / "show") == {"VOC2007/JPEGImages/a.jpg", "predictions.png"}


def test_no_image_is_replaced(tmp_path: Path) -> None:
    """Not by a picture in the folder of the set either."""
    (tmp_path / "show/day").mkdir(parents=True)
    (tmp_path / "images").symlink_to(tmp_path / "show/day")
    content = write_photo(tmp_path / "images/a.png", 1).read_bytes()
    other = tmp_path / "other"
    (other / "images").mkdir(parents=True)
    write_photo(other / "images/a.png", 1)
    data = ConcatDataset([dataset(tmp_path, ["a.png"], file="day"), dataset(other, ["a.png"])])
    with pytest.raises(InputError, match=r"show/day/a\.png would replace the image"):
        test(data, tmp_path / "show", predictions(data))
    assert (tmp_path / "images/a.png").read_bytes() == content


def test_an_image_of_another_size_is_refused_when_it_comes(tmp_path: Path) -> None:
    """By the loader, and by the pictures if the loader is another."""
    (tmp_path / "images").mkdir()
    write_photo(tmp_path / "images/a.png", 1)
    data = dataset(tmp_path, ["a.png"], (WIDTH, HEIGHT + 1))
    words = r"a\.png has height 48 and width 80, and height 49 and width 80 by its annotations"
    with pytest.raises(InputError, match=words):
        data[0]
    with pytest.raises(InputError, match=words):
        test(data, tmp_path / "show", predictions(data))
    assert not (tmp_path / "show").exists()


def test_what_opencv_cannot_write_becomes_png(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(photos.upright_pixels()).save(tmp_path / "images/a", "PNG")
    assert not cv2.haveImageWriter("a")
    data = dataset(tmp_path, ["a"])
    test(data, tmp_path / "show", predictions(data))
    assert below(tmp_path / "show") == {"a.png", "predictions.png"}


def test_pictures_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    write_photo(tmp_path / "images/a.png", 1)
    data = dataset(tmp_path, ["a.png"])
    (tmp_path / "show").write_text("a file")
    with pytest.raises(InputError, match=r"show/a\.png cannot be written .*--show-dir"):
        test(data, tmp_path / "show", predictions(data))


@pytest.fixture
def nested(tmp_path: Path, tiny_config: Path) -> tuple[Path, Path]:
    """A set whose images are in folders, and a checkpoint of the tiny detector for it."""
    from ws_det.mmdet.config import load_config

    root = tmp_path / "set"
    names = ["cam1/0001.png", "cam2/0001.png"]
    for name in names:
        path = root / "val2017" / name
        path.parent.mkdir(parents=True)
        Image.fromarray(photos.upright_pixels()).save(path)
    (root / "annotations").mkdir()
    for part in ("train", "val"):
        write_truth(root / f"annotations/instances_{part}2017.json", names, (WIDTH, HEIGHT))
    (root / "train2017").symlink_to(root / "val2017")
    model = build_model(load_config(str(tiny_config), data_root=str(root)))
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.pth")
    return root, tmp_path / "model.pth"


def test_the_tool(nested: tuple[Path, Path], tiny_config: Path, tmp_path: Path, refusal) -> None:
    """Two images of one name are two pictures, and no picture replaces an image."""
    root, checkpoint = nested
    before = {name: (root / name).read_bytes() for name in below(root)}
    flags = [tiny_config, checkpoint, "--data-root", root, "--work-dir", tmp_path / "work"]
    flags += ["--cfg-options", "test_evaluator.metric=bbox", "--show-dir"]
    said = refusal(tool, *flags, root / "val2017")
    assert "is the folder of the images" in said and not (tmp_path / "work").exists()
    tool.main([str(flag) for flag in [*flags, tmp_path / "show"]])
    assert below(tmp_path / "show") == {"cam1/0001.png", "cam2/0001.png", "predictions.png"}
    assert {name: (root / name).read_bytes() for name in below(root)} == before
