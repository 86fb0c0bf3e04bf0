"""Sets of the user's own functions, whose dicts say less than those of a file, or what is wrong.

Oracles: the same run on dicts that say all, to the bit, and Detectron2's own mapper.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.datasets import load_coco_json, load_sem_seg
from detectron2.structures import BoxMode
from PIL import Image

from tests.detectron2.conftest import DEMO
from tests.detectron2.test_mended import STEPS, assert_equal_runs
from ws_det.detectron2.config import load_recipe
from ws_det.detectron2.copies import registered_anew
from ws_det.detectron2.data import check_sets
from ws_det.detectron2.mapper import NamedMapper
from ws_det.detectron2.own_sets import complete
from ws_det.detectron2.set_files import Wants
from ws_det.detectron2.train import Job, run
from ws_det.errors import InputError

MASKS = Wants(["my_train"], ["my_val"], masks=True, mask_format="polygon")


def dicts_of(root, part):
    """As one who has never heard of COCO would write them: boxes by corners."""
    path = root / f"annotations/instances_{part}2017.json"
    dicts = load_coco_json(str(path), str(root / f"{part}2017"))
    for entry in dicts:
        for thing in entry["annotations"]:
            x, y, w, h = thing["bbox"]
            thing.update(bbox=np.array([x, y, x + w, y + h]), bbox_mode=BoxMode.XYXY_ABS)
            thing["category_id"] = {3: 0, 7: 1}[thing["category_id"]]
    return dicts


@pytest.fixture
def register():
    """Register functions for the time of a test."""
    names = []

    def register(name, function, **metadata):
        names.append(name)
        DatasetCatalog.register(name, function)
        MetadataCatalog.get(name).set(thing_classes=["box", "bar"], **metadata)

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def without(dicts, *keys):
    return [{key: entry[key] for key in entry if key not in keys} for entry in dicts]


def test_dicts_without_sizes_and_ids_train_and_evaluate(coco_set, register, tmp_path):
    """Training, boxes and masks by COCO's numbers, and pictures."""
    for part in ("train", "val"):
        dicts = dicts_of(coco_set, part)
        for number, entry in enumerate(dicts):
            entry["image_id"] = number
        register(f"all_{part}", lambda dicts=dicts: dicts)
        register(f"some_{part}", lambda dicts=dicts: without(dicts, "height", "width", "image_id"))
    for name in ("all", "some"):
        sets = [f"dataloader.{part}.dataset.names={name}_{which}" for part, which in PARTS]
        options = [*STEPS, *sets, "model.module.roi_heads.num_classes=2"]
        out = tmp_path / name
        run(Job(DEMO, (*options, f"train.output_dir={out}"), show_dir=str(out / "shown")))
    assert_equal_runs(tmp_path / "all", tmp_path / "some", images=4)
    pictures = [sorted(tmp_path.glob(f"{name}/shown/*")) for name in ("all", "some")]
    assert [p.read_bytes() for p in pictures[0]] == [p.read_bytes() for p in pictures[1]] != []
    truth = json.loads((tmp_path / "some/inference/some_val_coco_format.json").read_text())
    assert {(image["height"], image["width"]) for image in truth["images"]} == {(64, 96)}


PARTS = (("train", "train"), ("test", "val"))


def test_a_changed_function_is_not_evaluated_by_its_old_truth(coco_set, register, tmp_path):
    """Detectron2 keeps what it converted. Oracle: the number of images of the new function."""
    dicts = dicts_of(coco_set, "val")
    register("my_val", lambda: dicts)
    weights = tmp_path / "model.pth"
    torch.save({"model": load_recipe(DEMO, [], str(coco_set)).build_model().state_dict()}, weights)
    options = ["dataloader.test.dataset.names=my_val", "model.module.roi_heads.num_classes=2"]
    options += [f"train.init_checkpoint={weights}", f"train.output_dir={tmp_path / 'out'}"]
    for count in (4, 2):
        del dicts[count:]
        run(Job(DEMO, tuple(options), eval_only=True))
        assert json.loads((tmp_path / "out/coco_metrics.json").read_text())["images"] == count


def test_semantic_dicts_get_their_sizes_from_the_images(coco_set, tmp_path, register):
    """Oracle: Detectron2's own mapper, which reads the image."""
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in (coco_set / "train2017").iterdir():
        Image.fromarray(np.zeros((64, 96), np.uint8)).save(masks / f"{path.stem}.png")
    register("my_train", lambda: load_sem_seg(str(masks), str(coco_set / "train2017")))
    dicts = complete(DatasetCatalog["my_train"])
    mapped = DatasetMapper(True, augmentations=[], image_format="RGB")(dicts[0])
    assert mapped["sem_seg"].shape == mapped["image"].shape[1:] == (64, 96)
    assert {(entry["height"], entry["width"]) for entry in dicts} == {(64, 96)}
    options = ["dataloader.train.dataset.names=my_train", "dataloader.train.total_batch_size=1"]
    recipe = load_recipe(DEMO, options)
    assert check_sets(["my_train"], [2], recipe.wants()).notes == []
    with registered_anew({"my_train": {}}):
        assert "sem_seg" in next(iter(recipe.build_train_loader(0, 0)))[0]


def test_images_without_annotations_among_others(coco_set, register):
    dicts = dicts_of(coco_set, "train")
    del dicts[0]["annotations"]
    register("my_train", lambda: dicts)
    check_sets(["my_train"], [2], MASKS)
    assert complete(DatasetCatalog["my_train"])[0]["annotations"] == []
    assert "annotations" not in dicts[0]


def fault_of(entry, **changes):
    entry["annotations"][0].update(changes)


RLE = {"size": [64, 96], "counts": b"PPn0"}
FAULTS = {
    "file": (lambda d: d[1].update(file_name="/nowhere.jpg"), r"/nowhere\.jpg .*\(1 of 6"),
    "no box": (lambda d: d[1]["annotations"][0].pop("bbox"), r"1\.jpg .* without 'bbox'"),
    "mode": (lambda d: d[1]["annotations"][0].pop("bbox_mode"), "without 'bbox_mode'"),
    "relative": (lambda d: fault_of(d[1], bbox_mode=BoxMode.XYXY_REL), "does not support"),
    "text": (lambda d: fault_of(d[1], bbox=["1", "2", "3", "4"]), r"the bbox \['1'"),
    "three": (lambda d: fault_of(d[1], bbox=[1, 2, 3]), r"the bbox \[1, 2, 3\]"),
    "class": (lambda d: fault_of(d[1], category_id=2), "of the class 2, and .* has 2, from 0"),
    "rle": (lambda d: fault_of(d[1], segmentation=RLE), "(?s)1\\.jpg .*=bitmask .*MASK_FORMAT"),
    "no mask": (lambda d: d[1]["annotations"][1].pop("segmentation"), "without a 'segm"),
    "two points": (lambda d: fault_of(d[1], segmentation=[[1, 2, 3, 4]]), "no list of polygons"),
    "flat": (lambda d: fault_of(d[1], segmentation=[1, 2, 3, 4, 5, 6]), "no list of polygons"),
    "empty": (lambda d: d.clear(), "my_train is empty"),
    "crowds": (lambda d: [t.update(iscrowd=1) for e in d for t in e["annotations"]], "learn from"),
    "flat boxes": (
        lambda d: [t.update(bbox=[1, 1, 1, 9]) for e in d for t in e["annotations"]],
        r"nothing to learn from \(12 annotations",
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_wrong_dicts_are_refused(coco_set, register, kind):
    change, words = FAULTS[kind]
    dicts = dicts_of(coco_set, "train")
    change(dicts)
    register("my_train", lambda: dicts)
    with pytest.raises(InputError, match=words):
        check_sets(["my_train"], [2], MASKS)


def test_images_of_one_id_are_refused(coco_set, register):
    dicts = dicts_of(coco_set, "val")
    dicts[3]["image_id"] = dicts[0]["image_id"]
    register("my_val", lambda: dicts)
    with pytest.raises(InputError, match="two images of the set my_val have the image_id 1:"):
        check_sets(["my_val"], [2], MASKS)


def test_a_function_that_fails_is_named(register):
    register("my_train", Path("/nowhere.csv").read_text)
    with pytest.raises(InputError, match=r"my_train fails \(FileNotFoundError: .*nowhere\.csv"):
        check_sets(["my_train"], [2], MASKS)


def test_some_boxes_without_sides_are_counted(coco_set, register):
    dicts = dicts_of(coco_set, "train")
    dicts[1]["annotations"][0]["bbox"][2] = 0
    register("my_train", lambda: dicts)
    found = check_sets(["my_train"], [2], MASKS)
    assert len(found.notes) == 1 and found.notes[0].startswith("1 of 12 boxes of my_train")


def test_what_another_mapper_reads_is_not_looked_at(register, tmp_path):
    """It may read anything. Oracle: its result."""
    register("my_train", lambda: [{"file_name": "cloud.npy", "depth": 3}])
    check_sets(["my_train"], [2], MASKS._replace(own_mapper=False))
    mapper = NamedMapper(lambda entry: entry["depth"])
    assert mapper({"file_name": "cloud.npy", "depth": 3}) == 3
    (tmp_path / "cloud.npy").write_bytes(b"points")
    for path in (tmp_path / "cloud.npy", tmp_path / "nowhere.jpg"):
        with pytest.raises(InputError, match=rf"fails on the image {path} \(KeyError: 'depth'\)"):
            mapper({"file_name": str(path)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: e.update(width=64, height=96), "96 pixels wide and 64 high.* say 64 and 96"),
        (lambda e: fault_of(e, segmentation=RLE), "=bitmask"),
        (lambda e: e["annotations"][1].pop("segmentation"), "without a 'segmentation'"),
        (lambda e: fault_of(e, segmentation=[[1, 2, 3, 4]]), "no list of polygons"),
        (lambda e: fault_of(e, bbox=["a"] * 4), "DatasetMapper fails on .*which can be read"),
        (lambda e: fault_of(e, keypoints=[1, 2]), r"which can be read \(ValueError"),
    ],
)
def test_the_mapper_says_what_is_wrong_of_a_good_image(coco_set, change, words):
    entry = dicts_of(coco_set, "val")[0]
    mapper = DatasetMapper(
        True, augmentations=[], image_format="RGB", use_instance_mask=True, use_keypoint=True
    )
    NamedMapper(mapper)(entry)
    change(entry)
    with pytest.raises(InputError, match=words) as refused:
        NamedMapper(mapper)(entry)
    assert "replace it" not in str(refused.value)
    assert str(coco_set / "val2017/0.jpg") in str(refused.value)


def test_a_function_of_ones_own_beside_a_file(coco_set, register, tmp_path):
    """The function stays, and evaluators read the mended file. Oracle: both by hand."""
    root = shutil.copytree(coco_set, tmp_path / "set")
    path = root / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    for thing in content["annotations"]:
        del thing["area"]
    path.write_text(json.dumps(content))
    half = dicts_of(coco_set, "val")[:2]
    register("my_val", lambda: half, json_file=str(path))
    found = check_sets(["my_val"], [2], MASKS)
    assert [thing["area"] for thing in found.contents["my_val"]["annotations"][:2]] == [900, 720]
    with registered_anew({"my_val": {"json_file": "elsewhere"}}):
        assert len(DatasetCatalog.get("my_val")) == 2
        assert MetadataCatalog.get("my_val").json_file == "elsewhere"


CONFIG = f"""
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog

import ws_det
from tests.detectron2.test_own_sets import Path, dicts_of

cfg = LazyConfig.load(ws_det.config_path({DEMO!r}))
dataloader, lr_multiplier, model, optimizer, train = (
    cfg[key] for key in ("dataloader", "lr_multiplier", "model", "optimizer", "train")
)
for part in ("train", "val"):
    DatasetCatalog.register(f"by_config_{{part}}", lambda part=part: dicts_of(Path("ROOT"), part))
    MetadataCatalog.get(f"by_config_{{part}}").thing_classes = ["box", "bar"]
dataloader.train.dataset.names, dataloader.test.dataset.names = "by_config_train", "by_config_val"
model.module.roi_heads.num_classes = 2
"""


def test_a_config_that_registers_its_sets(coco_set, tmp_path):
    """Which Detectron2 loads once in a process, as a set cannot be registered twice."""
    (tmp_path / "config.py").write_text(CONFIG.replace("ROOT", str(coco_set)))
    try:
        run(Job(str(tmp_path / "config.py"), (*STEPS, f"train.output_dir={tmp_path / 'out'}")))
    finally:
        for name in ("by_config_train", "by_config_val"):
            DatasetCatalog.pop(name, None)
            MetadataCatalog.pop(name, None)
    assert json.loads((tmp_path / "out/coco_metrics.json").read_text())["images"] == 4


@pytest.mark.parametrize(
    ("config", "masks", "mask_format"),
    [
        ("mask_rcnn_R_50_FPN_3x_gn_ws.yaml", True, "polygon"),
        ("faster_rcnn_R_50_FPN_1x_gn_ws.yaml", False, None),
        ("retinanet_R_50_FPN_1x_gn_ws.yaml", False, None),
        ("cascade_mask_rcnn_R_50_FPN_3x_gn_ws.yaml", True, "polygon"),
        ("mask_rcnn_R_50_FPN_2x_gn_ws.py", True, "polygon"),
        (DEMO, True, "bitmask"),
    ],
)
def test_what_the_supplied_configs_want(config, masks, mask_format):
    wants = load_recipe(config).wants()
    assert (wants.masks, wants.mask_format, wants.own_mapper) == (masks, mask_format, True)
    assert not wants.keypoints
