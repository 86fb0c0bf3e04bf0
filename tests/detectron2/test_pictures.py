"""Pictures of Detectron2's tests. Oracle: EXIF's own words; ``draw_grid`` of pairs made by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances
from PIL import Image

from tests import photos
from tests.detectron2.conftest import DEMO
from tests.photos import FORMATS, HEIGHT, SIDES, SQUARE, WIDTH, write_photo
from tools import train_detectron2
from ws_det.detectron2 import evaluator
from ws_det.detectron2.config import load_recipe
from ws_det.detectron2.pictures import PicturesEvaluator
from ws_det.errors import InputError
from ws_det.pictures import Drawn, Pair, draw_grid

X, Y, W, H = SQUARE
BOX = np.array([X, Y, X + W, Y + H])


def registered(folder, names, size=(WIDTH, HEIGHT)):
    """Register a set of those images, each with the square; give its name."""
    images, things = [], []
    for key, name in enumerate(names, 1):
        images.append({"id": key, "file_name": name, "width": size[0], "height": size[1]})
        thing = {"id": key, "image_id": key, "category_id": 1, "bbox": SQUARE, "iscrowd": 0}
        things.append({**thing, "area": W * H})
    content = {"images": images, "annotations": things}
    content["categories"] = [{"id": 1, "name": "square"}]
    (folder / "truth.json").write_text(json.dumps(content))
    name = f"photos_{folder.name}"
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(name, None)
    register_coco_instances(name, {}, str(folder / "truth.json"), str(folder))
    return name


def drawn(name, path, **options):
    """The pairs of a set of which all is found."""
    dicts = DatasetCatalog.get(name)
    pictures = PicturesEvaluator(dicts, name, str(path), **options)
    found = Instances((HEIGHT, WIDTH), pred_boxes=Boxes(torch.from_numpy(BOX[None]).float()))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    pictures.reset()
    pictures.process([{"image_id": d["image_id"]} for d in dicts], [{"instances": found}] * 99)
    pictures.evaluate()
    return pictures.pairs


@pytest.mark.parametrize("kind", sorted(set(FORMATS) - {"jpg", "avif"}))
def test_boxes_surround_in_upright_photos(tmp_path, kind):
    """To the bit, in the formats without loss."""
    names = [f"cam{n}/0001.{kind}" for n in SIDES]
    for name, orientation in zip(names, SIDES):
        (tmp_path / name).parent.mkdir()
        write_photo(tmp_path / name, orientation)
    drawn(registered(tmp_path, names), tmp_path / "ours.png")
    truth, found = [Drawn(0, BOX)], [Drawn(0, BOX, None, 0.9)]
    pairs = [Pair(name, photos.upright_pixels(), truth, found) for name in names]
    draw_grid(pairs, ["square"], tmp_path / "theirs.png")
    ours, theirs = (np.asarray(Image.open(tmp_path / f"{who}.png")) for who in ("ours", "theirs"))
    np.testing.assert_array_equal(ours, theirs)


def test_an_image_of_another_size_is_refused_when_it_comes(tmp_path):
    """Not when all is drawn, after the test."""
    write_photo(tmp_path / "a.png", 1)
    name = registered(tmp_path, ["a.png"], (WIDTH, HEIGHT + 1))
    with pytest.raises(InputError, match=r"a\.png has height 48 and width 80, and height 49"):
        drawn(name, tmp_path / "grid.png")
    assert not (tmp_path / "grid.png").exists()


def test_sets_that_know_little(tmp_path):
    """No annotations, no names of classes, no folder, and a model that finds no instances."""
    name = "photos_of_a_function"
    write_photo(tmp_path / "a.png", 6)
    dicts = [{"file_name": str(tmp_path / "a.png"), "image_id": 1}]
    pictures = PicturesEvaluator(dicts, name, str(tmp_path / "grid.png"))
    found = Instances((HEIGHT, WIDTH), pred_boxes=Boxes(torch.from_numpy(BOX[None]).float()))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([70])
    outputs = [{"sem_seg": torch.zeros(2, HEIGHT, WIDTH)}, {"instances": found}]
    pictures.process(dicts * 2, outputs)
    pictures.evaluate()
    pair, other = pictures.pairs
    assert (pair.title, pair.truth, pair.found) == ("a.png", [], [])
    assert [thing.label for thing in other.found] == [70]
    assert Image.open(tmp_path / "grid.png").size[0] > 1000


def test_the_old_place():
    assert evaluator.PicturesEvaluator is PicturesEvaluator


def test_the_tool_on_several_sets(coco_set, tmp_path):
    """Each has its pictures. Oracle: a second evaluation, of one of them alone."""
    recipe = load_recipe(DEMO, [], str(coco_set))
    torch.save({"model": recipe.build_model().state_dict()}, tmp_path / "model.pth")
    pictures = {}
    for names in ("data_root_val,data_root_train", "data_root_train"):
        show = tmp_path / names.replace(",", "_")
        flags = ["--config-file", DEMO, "--data-root", coco_set, "--eval-only", "--show-dir", show]
        flags += [f"train.init_checkpoint={tmp_path}/model.pth", f"train.output_dir={show}_out"]
        flags += ["train.device=cpu", f"dataloader.test.dataset.names=[{names}]"]
        train_detectron2.main([str(flag) for flag in flags])
        found = sorted(show.rglob("*.png"))
        pictures[names] = {str(p.relative_to(show)): p.read_bytes() for p in found}
    several, one = pictures.values()
    assert list(several) == [f"data_root_{part}/predictions.png" for part in ("train", "val")]
    assert list(one) == ["predictions.png"]
    assert several["data_root_train/predictions.png"] == one["predictions.png"]
    assert several["data_root_val/predictions.png"] != one["predictions.png"]
