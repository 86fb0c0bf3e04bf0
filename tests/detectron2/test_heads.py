"""A set of other classes reaches every head of a config, and leaves the counts of others alone.

Oracle: Detectron2's own configs, edited at the one place where a user would.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from omegaconf import OmegaConf

from tests.detectron2.conftest import DEMO
from tools import train_detectron2
from ws_det.detectron2.config import load_recipe
from ws_det.detectron2.heads import counts_of_lazy, counts_of_yaml, set_lazy, set_yaml
from ws_det.errors import InputError

CONFIGS = Path(model_zoo.get_config_file("Base-RCNN-FPN.yaml")).parent
SOME = [
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.py",
    "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "COCO-Detection/retinanet_R_50_FPN_1x.py",
    "COCO-Detection/fcos_R_50_FPN_1x.py",
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.py",
    "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "Misc/mask_rcnn_R_50_FPN_1x_cls_agnostic.yaml",
]


def shapes(cfg: Any) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = instantiate(cfg.model) if OmegaConf.is_config(cfg) else build_model(cfg)
    return {name: value.shape for name, value in model.state_dict().items()}


def compare(path: Path) -> str:
    """Set two numbers of classes, and build what a user would edit."""
    lazy = path.suffix == ".py"
    if lazy:
        own = LazyConfig.load(str(path))
        if "model" not in own:
            return "no model"
        place = "roi_heads.num_classes" if "roi_heads" in own.model else "num_classes"
    else:
        own = get_cfg()
        own.merge_from_file(str(path))
        own.MODEL.DEVICE, own.MODEL.WEIGHTS = "meta", ""
        retinanet = own.MODEL.META_ARCHITECTURE == "RetinaNet"
        place = f"MODEL.{'RETINANET' if retinanet else 'ROI_HEADS'}.NUM_CLASSES"
    built = []
    for classes in (2, 5):
        ours, theirs = copy.deepcopy(own), copy.deepcopy(own)
        try:
            set_lazy(ours.model, classes) if lazy else set_yaml(ours.MODEL, classes)
        except InputError as error:
            assert "maps of stuff" in str(error)
            assert "sem_seg" in str(error).lower()
            return "refused: stuff"
        if lazy:
            OmegaConf.update(theirs.model, place, classes)
            counts = counts_of_lazy(ours.model)
        else:
            theirs.merge_from_list([place, classes])
            counts = counts_of_yaml(ours.MODEL)
        if not counts:
            return "without classes"
        try:
            built.append(shapes(ours))
        except Exception as error:  # a package or a meta device that it cannot do with
            return f"not built ({type(error).__name__})"
        assert built[-1] == shapes(theirs)
        assert {*counts} == {classes}
    assert built[0] != built[1]
    return "as edited by hand"


@pytest.mark.parametrize("name", SOME)
def test_own_configs(name: str) -> None:
    assert compare(CONFIGS / name) == "as edited by hand"


@pytest.mark.sweep
def test_all_own_configs(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes: Counter[str] = Counter()
    for path in sorted([*CONFIGS.glob("*/*.yaml"), *CONFIGS.glob("*/*.py")]):
        outcomes[compare(path)] += 1
    with capsys.disabled():
        print(f"\nDetectron2's own configs: {dict(outcomes)}")
    assert outcomes["as edited by hand"] > 50 and outcomes["refused: stuff"] >= 6


LAZY = """
from detectron2 import model_zoo
base = model_zoo.get_config({base!r})
dataloader, lr_multiplier, optimizer, train = (
    base[key] for key in ("dataloader", "lr_multiplier", "optimizer", "train")
)
model = base.model
constants = dict(classes=80)
{edit}
"""


@pytest.mark.parametrize(
    "edit",
    [
        "model.roi_heads.num_classes = '${constants.classes}'",
        "del model.roi_heads.mask_head.num_classes; model.roi_heads.mask_head.num_classes = 80",
    ],
)
def test_counts_that_are_read_from_elsewhere(edit: str, coco_set: Path, tmp_path: Path) -> None:
    """From a variable of the file, and a second one that is no interpolation."""
    config = tmp_path / "own.py"
    base = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py"
    config.write_text(LAZY.format(base=base, edit=edit))
    recipe = load_recipe(str(config), [], str(coco_set))
    assert {*recipe.num_classes()} == {2} and len(recipe.num_classes()) == 3


def test_masks_for_all_classes(coco_set: Path, tmp_path: Path) -> None:
    config = tmp_path / "own.py"
    base = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py"
    config.write_text(LAZY.format(base=base, edit="model.roi_heads.mask_head.num_classes = 1"))
    recipe = load_recipe(str(config), [], str(coco_set))
    assert recipe.cfg.model.roi_heads.mask_head.num_classes == 1
    assert {*recipe.num_classes()} == {2}


def test_stuff_is_not_counted_as_things() -> None:
    """A panoptic set of one's own needs no --data-root."""
    recipe = load_recipe(str(CONFIGS / "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.py"))
    assert {*recipe.num_classes()} == {80} and recipe.cfg.model.sem_seg_head.num_classes == 54
    recipe = load_recipe(str(CONFIGS / "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml"))
    assert recipe.num_classes() == [80]
    recipe = load_recipe(str(CONFIGS / "Misc/semantic_R_50_FPN_1x.yaml"))
    assert recipe.num_classes() == []


@pytest.mark.parametrize("suffix", ["py", "yaml"])
def test_a_set_without_stuff(suffix: str, coco_set: Path, tmp_path: Path, refusal: Any) -> None:
    config = CONFIGS / f"COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.{suffix}"
    said = refusal(train_detectron2, "--config-file", config, "--data-root", coco_set)
    assert "54 classes predicts maps of stuff" in said and "leave out --data-root" in said


def test_keypoints_of_the_set(coco_set: Path, tmp_path: Path) -> None:
    root = tmp_path / "annotations"
    root.mkdir()
    content = json.loads((coco_set / "annotations/instances_train2017.json").read_text())
    content["categories"] = [{"id": 1, "name": "x", "keypoints": ["a", "b", "c"], "skeleton": []}]
    (root / "instances_train2017.json").write_text(json.dumps(content))
    for suffix in ("py", "yaml"):
        config = CONFIGS / f"COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.{suffix}"
        recipe = load_recipe(str(config), [], str(tmp_path))
        assert recipe.wants().num_keypoints == 3 and {*recipe.num_classes()} == {1}


def test_advice_that_was_followed(coco_set: Path, tmp_path: Path, refusal: Any) -> None:
    """The option undoes what --data-root set. Oracle: the sentence does not ask for it again."""
    flags = ["--config-file", DEMO, "--data-root", coco_set, f"train.output_dir={tmp_path}/out"]
    said = refusal(train_detectron2, *flags, "model.module.roi_heads.num_classes=7")
    assert "num_classes=7" in said and "pass --data-root" not in said
    assert not (tmp_path / "out").exists()
