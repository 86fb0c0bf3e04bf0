"""From a config's name and flags to the config that runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config

from ws_det import config_path
from ws_det.errors import InputError
from ws_det.mmdet.config import complete, load_config
from ws_det.mmdet.data import heads_of
from ws_det.mmdet.options import merge_options, parse_options

NAME = "mask-rcnn_r50_fpn_gn-ws-all_2x_coco"


def test_name_and_path_are_the_same() -> None:
    """Oracle: MMEngine's own reading of the file."""
    plain = Config.fromfile(config_path(NAME))
    for name in (NAME, NAME + ".py", config_path(NAME)):
        assert load_config(name).model == plain.model
    assert load_config(NAME).work_dir == f"work_dirs/{NAME}"
    assert load_config(NAME, work_dir="w").work_dir == "w"


def test_options_are_typed_as_in_mmdet() -> None:
    """Oracle: MMEngine's documented rules for values."""
    parsed = parse_options(["a.b=1", "c=[1,2]", "d=(3,x)", "e=None", "f=true", "g=1e-3"])
    assert parsed == {"a.b": 1, "c": [1, 2], "d": (3, "x"), "e": None, "f": True, "g": 1e-3}
    assert parse_options([]) == {}


@pytest.mark.parametrize(
    "option",
    [
        "randomness.seed=0",  # the Runner knows it, the config has none
        "find_unused_parameters=True",
        "model_wrapper_cfg.type=MMDistributedDataParallel",
        "load_from=x.pth",
        "model.backbone.with_cp=True",  # an argument the config leaves out
        "model.backbone.init_cfg.prefix=backbone.",
        "model.backbone.stage_with_dcn=(False,True,True,True)",
        "model.roi_head.bbox_head.reg_class_agnostic=True",  # of a parent class
        "optim_wrapper.accumulative_counts=4",
        "optim_wrapper.clip_grad.max_norm=35",
        "optim_wrapper.paramwise_cfg.norm_decay_mult=0",
        "optim_wrapper.optimizer.nesterov=True",
        "optim_wrapper.constructor=LearningRateDecayOptimizerConstructor",
        "model.neck.norm_cfg.requires_grad=False",
        "train_dataloader.pin_memory=False",
        "train_dataloader.dataset.indices=10",
        "train_dataloader.dataset.pipeline.2.scale=(160,128)",
        "train_dataloader.sampler.seed=1",
        "default_hooks.checkpoint.max_keep_ckpts=3",
        "default_hooks.checkpoint.save_best=coco/bbox_mAP",
        "val_evaluator.classwise=True",
        "val_evaluator.backend=pycocotools",
        "env_cfg.dist_cfg.timeout=1800",
        "train_cfg.val_begin=2",
        "param_scheduler.0.end=1000",
        "visualizer.alpha=0.5",
        "custom_imports.imports=[a]",
    ],
)
def test_legitimate_new_keys_are_merged(option: str) -> None:
    """Oracle: what mmdet and MMEngine read, each looked up in its constructor."""
    cfg = load_config(NAME)
    cfg.model.neck.norm_cfg.pop("requires_grad")
    if option.startswith("optim_wrapper.clip_grad"):
        cfg.optim_wrapper.clip_grad = dict(norm_type=2)
    if option.startswith(("optim_wrapper.paramwise", "env_cfg.dist")):
        cfg.optim_wrapper.paramwise_cfg = dict(bias_decay_mult=1)
    merge_options(cfg, parse_options([option]))
    node = cfg._cfg_dict
    for key in option.partition("=")[0].split("."):
        node = node[int(key)] if isinstance(node, list) else node[key]
    assert node is not None


def test_data_root_serves_a_set_of_its_own(tiny_config: Path, coco_set: Path) -> None:
    """Oracle: the set's folder and categories, everywhere they are read."""
    cfg = load_config(str(tiny_config), data_root=str(coco_set))
    for part in ("train", "val", "test"):
        dataset = cfg[f"{part}_dataloader"].dataset
        assert (dataset.data_root, dataset.metainfo.classes) == (str(coco_set), ("box", "bar"))
    file = "annotations/instances_val2017.json"
    assert cfg.val_evaluator.ann_file == cfg.test_evaluator.ann_file == str(coco_set / file)
    assert [head["num_classes"] for head in heads_of(cfg.model)] == [2, 2]


def test_data_root_looks_through_wrappers_and_stages(coco_set: Path) -> None:
    """A repeated set, and the three heads of a cascade."""
    name = "cascade-mask-rcnn_r50_fpn_gn-ws-all_20e_coco"
    inner = load_config(name).train_dataloader.dataset
    repeated = dict(_delete_=True, type="RepeatDataset", times=2, dataset=inner)
    cfg = load_config(name, {"train_dataloader.dataset": repeated}, data_root=str(coco_set))
    assert cfg.train_dataloader.dataset.dataset.data_root == str(coco_set)
    assert [head["num_classes"] for head in heads_of(cfg.model)] == [2] * 4


def test_coco_keeps_its_own_words(tiny_coco: Path) -> None:
    """The 80 categories of COCO need no metainfo; mmdet has them, with their colours."""
    dataset = load_config(NAME, data_root=str(tiny_coco)).train_dataloader.dataset
    assert "metainfo" not in dataset


def test_complete_adds_once_and_keeps_what_is_there() -> None:
    cfg = load_config("mask-rcnn_r50_fpn_bcn-ws-all_2x_coco")
    complete(cfg, "none")
    once = cfg.pretty_text
    complete(cfg, "none")
    assert cfg.pretty_text == once
    assert [hook["type"] for hook in cfg.custom_hooks].count("SyncEstBNHook") == 1
    assert "LoadImageFromFile" not in once and "LoadNamedImage" in once
    assert cfg.val_evaluator.type == cfg.test_evaluator.type == "CocoTwelveMetric"


def test_an_evaluation_back_end_that_is_not_there() -> None:
    """Found before a run begins, not at its first evaluation."""
    cfg = load_config(NAME, {"val_evaluator.backend": "cocoapi"})
    with pytest.raises(InputError, match="no evaluation back end 'cocoapi': use auto, hotcoco"):
        complete(cfg, "none")


def test_config_that_exists_nowhere() -> None:
    with pytest.raises(InputError, match="no supplied config is called 'nothing'"):
        load_config("nothing")
