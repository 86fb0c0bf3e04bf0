"""A set of other classes reaches every head of a config, and leaves the counts of others alone.

Oracles: MMDetection's own configs edited by hand, and, over all of them, the number itself: no
setting of a model is 80 but the count of COCO's classes.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import mmdet
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from torch import nn

from tools import train
from ws_det.errors import InputError
from ws_det.mmdet.config import load_config
from ws_det.mmdet.heads import heads_in, set_classes

CONFIGS = Path(mmdet.__file__).parent / ".mim/configs"
BOX, MASK = "roi_head.bbox_head.num_classes", "roi_head.mask_head.num_classes"
STAGES = [f"roi_head.bbox_head.{stage}.num_classes" for stage in range(3)]
# what else is the set's count in a config, by hand
BY_HAND = {
    "mask2former/mask2former_r50_8xb2-lsj-50e_coco": [
        "panoptic_head.num_things_classes",
        "panoptic_fusion_head.num_things_classes",
        "panoptic_head.loss_cls.class_weight",
    ],
    "point_rend/point-rend_r50-caffe_fpn_ms-1x_coco": [
        BOX, MASK, "roi_head.point_head.num_classes",
    ],
    "ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco": [BOX, MASK, "roi_head.mask_iou_head.num_classes"],
    "scnet/scnet_r50_fpn_1x_coco": [*STAGES, MASK, "roi_head.glbctx_head.num_classes"],
    "htc/htc_r50_fpn_1x_coco": [
        *STAGES, *(stage.replace("bbox", "mask") for stage in STAGES),
    ],
    "seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss_random-ms-2x_lvis-v1": [
        BOX, MASK, "roi_head.bbox_head.loss_cls.num_classes",
    ],
    "queryinst/queryinst_r50_fpn_1x_coco": [
        f"roi_head.{part}_head.{stage}.num_classes"
        for part in ("bbox", "mask")
        for stage in range(6)
    ],
    "yolact/yolact_r50_1xb8-55e_coco": ["bbox_head.num_classes", "mask_head.num_classes"],
    "dino/dino-4scale_r50_8xb2-12e_coco": ["bbox_head.num_classes"],
    "solov2/solov2_r50_fpn_1x_coco": ["mask_head.num_classes"],
    "faster_rcnn/faster-rcnn_r50_fpn_fcos-rpn_1x_coco": [BOX],
}  # fmt: skip


def model_of(name: str) -> ConfigDict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old names in the configs
        return Config.fromfile(CONFIGS / f"{name}.py").model


def build(model: ConfigDict) -> nn.Module:
    """Shapes without numbers."""
    model = copy.deepcopy(model)
    with torch.device("meta"):
        return MODELS.build(model)


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", BY_HAND)
def test_the_built_model(name: str) -> None:
    """Every shape and every option of every layer."""
    own = model_of(name)
    built = []
    for classes in (2, 5):
        ours, theirs = copy.deepcopy(own), Config({"model": copy.deepcopy(own)})
        set_classes(ours, classes)
        for path in BY_HAND[name]:
            weights = [1.0] * classes + [0.1]
            value = weights if path.endswith("class_weight") else classes
            theirs.merge_from_dict({f"model.{path}": value})
        assert ours == theirs.model
        built.append(build(ours))
        assert shapes(built[-1]) == shapes(build(theirs.model))
    if "yolact" not in name:  # whose loss alone has them
        assert shapes(built[0]) != shapes(built[1])


def replaced(node: Any, old: int, new: int) -> Any:
    """A config in which every setting ``old`` is ``new``, and lists of weights fit.

    Numbers in lists of others are channels.
    """
    if isinstance(node, dict):
        return {
            key: new if value == old and type(value) is int else replaced(value, old, new)
            for key, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        if len(node) == old + 1 and {type(item) for item in node} == {float}:
            return [node[0]] * new + [node[-1]]
        return type(node)(replaced(item, old, new) for item in node)
    return node


def own_configs(paths: Iterable[Path]) -> Iterator[tuple[str, ConfigDict]]:
    """MMDetection's, but for those that need a package or a folder that is not here."""
    for path in paths:
        try:
            cfg = model_of(f"{path.parent.name}/{path.stem}")
        except (AttributeError, FileNotFoundError, ImportError):
            continue
        yield f"{path.parent.name}/{path.stem}", cfg


def check_by_value(own: ConfigDict, new: int) -> str:
    """Compare what we set with what its number tells; how that went."""
    heads = list(heads_in(own))
    things = max((head.things for head in heads), default=0)
    stuff = max((head.stuff for head in heads), default=0)
    if things not in (80, 365, 601, 1203, 1230, 13204):
        return "of a number that is others' as well" if heads else "without classes"
    ours = copy.deepcopy(own)
    set_classes(ours, new)
    expected = replaced(replaced(own, things, new), things + stuff, new)
    if stuff:
        expected = replaced(expected, stuff, 0)
    assert ours == expected
    return "compared"


def test_own_configs_by_value() -> None:
    """A choice of them; the sweep has all."""
    paths = random.Random(0).sample(sorted(CONFIGS.glob("[!_]*/*_coco.py")), 40)
    outcomes = Counter(check_by_value(own, 2) for _, own in own_configs(paths))
    assert outcomes["compared"] > 30


@pytest.mark.sweep
def test_all_own_configs(capsys: pytest.CaptureFixture[str]) -> None:
    """By value; and of each kind of head one is built, in which no number may be the old one."""
    outcomes, built, seen = Counter(), Counter(), set()
    for name, own in own_configs(sorted(CONFIGS.glob("[!_]*/*.py"))):
        outcomes[check_by_value(own, 3)] += 1
        kind = str(own.type), *sorted({str(head.node.get("type")) for head in heads_in(own)})
        if kind in seen or len(kind) == 1:
            continue
        seen.add(kind)
        built[check_built(name, own)] += 1
    with capsys.disabled():
        print(f"\nMMDetection's own configs by value: {dict(outcomes)}; built: {dict(built)}")
    assert outcomes["compared"] > 600 and built["as it should be"] > 60


def check_built(name: str, own: ConfigDict) -> str:
    old = max(head.channels(head.things, head.stuff) for head in heads_in(own))
    if old < 40 or old == 256:
        return "of a number that is others' as well"
    set_classes(own, 3)
    own.pop("teacher_ckpt", None)  # which would be downloaded
    try:
        model = build(own)
    except Exception as error:  # a package or a download that is not here, or no meta device
        return f"not built ({type(error).__name__})"
    for path, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, int) and ("class" in key or "cls" in key):
                assert value not in (old, old + 1), f"{name}: {path}.{key}"
    for path, parameter in model.named_parameters():
        if not path.startswith(("backbone", "neck")):
            assert not {old, old + 1, 4 * old} & {*parameter.shape}, f"{name}: {path}"
    return "as it should be"


def test_a_count_that_is_left_to_the_class() -> None:
    """80 by default, in the head and in the loss of LVIS; the RPN's stays 1."""
    model = model_of("lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1")
    del model.roi_head.mask_head["num_classes"]
    model.roi_head.bbox_head.loss_cls = dict(type="EQLV2Loss")
    set_classes(model, 3)
    built = build(model)
    assert built.roi_head.mask_head.conv_logits.out_channels == 3
    assert built.roi_head.bbox_head.loss_cls.num_classes == 3
    assert built.rpn_head.num_classes == 1 and "num_classes" not in model.rpn_head


def test_a_head_that_is_not_mmdets() -> None:
    """A user's own head at a key of their own, and a dict that names a count without a class."""

    @MODELS.register_module(name="OwnHead", force=True)
    class OwnHead(nn.Module):
        def __init__(self, *, num_classes: int = 80) -> None:
            super().__init__()

    model = ConfigDict(my=[dict(type="OwnHead")], extra=dict(num_classes=80))
    model.backbone = dict(type="OwnHead")
    set_classes(model, 4)
    assert model.my[0].num_classes == model.extra.num_classes == 4
    assert "num_classes" not in model.backbone


@pytest.mark.parametrize(
    ("weights", "sigmoid", "expected"),
    [
        ([0.5] * 80 + [0.1], False, [0.5] * 3 + [0.1]),
        ([0.5] * 80, True, [0.5] * 3),
        ([1.0, 2.0, 3.0, 0.1], False, [1.0, 2.0, 3.0, 0.1]),  # given for the set
        ([1.0, 2.0] * 40 + [0.1], False, None),
        ([1.0, 2.0], True, None),
    ],
)
def test_weights_of_classes(
    weights: list[float], sigmoid: bool, expected: list[float] | None
) -> None:
    model = model_of("faster_rcnn/faster-rcnn_r50_fpn_1x_coco")
    loss = dict(type="CrossEntropyLoss", use_sigmoid=sigmoid, class_weight=weights)
    model.roi_head.bbox_head.loss_cls = loss
    if expected is None:
        with pytest.raises(InputError, match=f"class_weight has {len(weights)} weights.* give "):
            set_classes(model, 3)
        return
    set_classes(model, 3)
    assert [*model.roi_head.bbox_head.loss_cls.class_weight] == expected


def own_config(tmp_path: Path, name: str) -> str:
    """A config on one of MMDetection's own."""
    path = tmp_path / "own.py"
    path.write_text(f"_base_ = 'mmdet::{name}.py'\n")
    return str(path)


@pytest.mark.parametrize(
    "name",
    ["mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic",
     "panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco"],
)  # fmt: skip
def test_stuff_and_a_set_without(
    name: str, coco_set: Path, tmp_path: Path, refusal: Any
) -> None:
    """A file under the panoptic name too, with boxes and masks in it."""
    config, root = own_config(tmp_path, name), tmp_path / "set"
    annotations = root / "annotations"
    annotations.mkdir(parents=True)
    for _ in range(2):
        said = refusal(train, config, "--data-root", root, "--work-dir", tmp_path / "work")
        assert "53 classes of stuff" in said and "panoptic_train2017.json is not of" in said
        assert "mask2former_r50_8xb2-lsj-50e_coco" in said
        masks = (coco_set / "annotations/instances_train2017.json").read_text()
        (annotations / "panoptic_train2017.json").write_text(masks)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("swapped", [False, True])
def test_a_panoptic_set(tmp_path: Path, swapped: bool) -> None:
    """Three things and two kinds of stuff; mmdet's labels need the things first."""
    config = own_config(tmp_path, "panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco")
    things = [True] * 3 + [False] * 2
    categories = [
        dict(id=7 + n, name=f"c{n}", isthing=int(thing))
        for n, thing in enumerate(things[::-1] if swapped else things)
    ]
    image = dict(id=1, file_name="1.jpg", height=9, width=9)
    content = dict(
        images=[image],
        categories=categories,
        annotations=[dict(image_id=1, file_name="1.png", segments_info=[])],
    )
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/panoptic_train2017.json").write_text(json.dumps(content))
    if swapped:
        with pytest.raises(InputError, match="lists stuff before things"):
            load_config(config, data_root=str(tmp_path))
        return
    cfg = load_config(config, data_root=str(tmp_path))
    model = build(cfg.model)
    assert model.roi_head.bbox_head.num_classes == model.roi_head.mask_head.num_classes == 3
    assert model.semantic_head.conv_logits.out_channels == 3  # two kinds, and all things as one
    assert model.panoptic_fusion_head.num_classes == 5
    assert cfg.train_dataloader.dataset.metainfo.thing_classes == ("c0", "c1", "c2")
    assert cfg.val_evaluator.seg_prefix == f"{tmp_path}/annotations/panoptic_val2017/"


def test_classes_that_the_set_has_but_a_head_not(
    tiny_config: Path, coco_set: Path, tmp_path: Path, refusal: Any
) -> None:
    """The config names the set's classes already: its heads are set all the same."""
    path = tmp_path / "named.py"
    path.write_text(
        f"_base_ = {str(tiny_config)!r}\n"
        "train_dataloader = dict(dataset=dict(metainfo=dict(classes=('box', 'bar'))))"
    )
    cfg = load_config(str(path), data_root=str(coco_set))
    assert {head.things for head in heads_in(cfg.model)} == {2}


def test_advice_that_was_followed(
    tiny_config: Path, coco_set: Path, tmp_path: Path, refusal: Any
) -> None:
    """The other file of a set lacks a category. Oracle: the sentence has no --data-root."""
    root = tmp_path / "set"
    shutil.copytree(coco_set, root)
    path = root / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    first = content["categories"].pop(0)
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != first["id"]]
    path.write_text(json.dumps(content))
    said = refusal(train, tiny_config, "--data-root", root, "--work-dir", tmp_path / "work")
    assert "instances_val2017.json does not have" in said and "--data-root" not in said


# Small enough for some seconds on a core: the heads are the point.
SMALL = """
_base_ = 'mmdet::{base}.py'
scale = (96, 64)
train = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='PackDetInputs'),
]
test = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs',
         meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=1, num_workers=0, persistent_workers=False, dataset=dict(pipeline=train))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test))
test_dataloader = val_dataloader
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=1, val_interval=1)
param_scheduler = []
default_hooks = dict(checkpoint=dict(interval=1, by_epoch=False))
log_processor = dict(by_epoch=False)
model = dict(backbone=dict(depth=18, init_cfg=None, frozen_stages=-1), {model})
"""
RCNN = (
    "neck=dict(in_channels=[64, 128, 256, 512]), "
    "train_cfg=dict(rpn_proposal=dict(nms_pre=50, max_per_img=16), rcnn=dict(sampler=dict(num=16)))"
)
BASES = {
    "mask2former/mask2former_r50_8xb2-lsj-50e_coco": "panoptic_head=dict(num_queries=10, "
    "in_channels=[64, 128, 256, 512], pixel_decoder=dict(encoder=dict(num_layers=1)), "
    "transformer_decoder=dict(num_layers=2)), test_cfg=dict(max_per_image=10)",
    "point_rend/point-rend_r50-caffe_fpn_ms-1x_coco": RCNN,
    "ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco": RCNN,
}


@pytest.mark.sweep
@pytest.mark.parametrize("base", BASES)
def test_a_step_and_a_validation(
    base: str, coco_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two classes. Oracle: labels beyond them are an error of the losses and of the evaluation."""
    config = tmp_path / "small.py"
    config.write_text(SMALL.format(base=base, model=BASES[base]))
    train.main([str(config), "--data-root", str(coco_set), "--work-dir", str(tmp_path / "work")])
    assert "(4 images)" in capsys.readouterr().out
    state = torch.load(tmp_path / "work/iter_1.pth", weights_only=False)["state_dict"]
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())
