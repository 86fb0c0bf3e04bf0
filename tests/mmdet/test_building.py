"""What a config's loaders, samplers, data sets and optimizers cannot be built of is one sentence.

Oracle: the sentence with the name or value at fault, and the work dir, which is not made.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config

from tools import train
from ws_det.errors import InputError
from ws_det.mmdet import preflight
from ws_det.mmdet.config import load_config

FAULTS = {
    "train_dataloader = dict(persistent_workers=True)": ("train_dataloader", "num_workers > 0"),
    "train_dataloader = dict(prefetch_factor=2)": ("train_dataloader", "prefetch_factor"),
    "train_dataloader = dict(num_workers=-1)": ("train_dataloader", "num_workers"),
    "train_dataloader = dict(batch_size=0)": ("train_dataloader", "batch_size"),
    "val_dataloader = dict(batch_size=0)": ("val_dataloader", "batch_size=0"),
    "train_dataloader = dict(drop_lst=True)": ("train_dataloader", "'drop_lst'"),
    "train_dataloader = dict(sampler=dict(shufle=True))": ("train_dataloader", "'shufle'"),
    "train_dataloader = dict(sampler=dict(type='NoSampler'))": ("NoSampler is not in the",),
    "train_dataloader = dict(batch_sampler=dict(typ='X'))": ("train_dataloader", "'typ'"),
    "train_dataloader = dict(dataset=dict(tset_mode=True))": (".dataset", "'tset_mode'"),
    "train_dataloader = dict(dataset=dict(pipeline=[dict(type='Resize', scal=3)]))": (
        "train_dataloader.dataset", "'scal'",
    ),
    "train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=2, tims=3, "
    "dataset=dict(type='CocoDataset', ann_file='annotations/instances_train2017.json', "
    "data_prefix=dict(img='train2017/'), pipeline=[])))": ("RepeatDataset takes no 'tims'",),
    "train_dataloader = dict(dataset=dict(data_prefix=dict(_delete_=True)))": ("no 'img', the",),
    "optim_wrapper = dict(clip_grad=dict(max_norm=(10, 0)))": ("clip_grad with max_norm=(10, 0)",),
    "optim_wrapper = dict(clip_grad=dict(max_nrom=10))": ("clip_grad with max_nrom=10", "'max_"),
    "optim_wrapper = dict(clip_grad=dict(max_norm=0))": ("max_norm=0 cannot", "becomes 0"),
    "optim_wrapper = dict(clip_grad=dict(type='valu', clip_value=1))": ("optim_wrapper", "valu"),
    "optim_wrapper = dict(optimizer=dict(type='SGDD'))": ("optim_wrapper", "SGDD is not in the"),
    "optim_wrapper = dict(optimizer=dict(momentumm=1))": ("optim_wrapper", "'momentumm'"),
    "optim_wrapper = dict(optimizer=dict(lr=-1))": ("optim_wrapper", "learning rate"),
    "optim_wrapper = dict(accumulative_counts=0)": ("optim_wrapper", "accumulative_counts"),
    "param_scheduler = [dict(type='LinearLR', begin=5, end=2, start_factor=.1)]": (
        "param_scheduler.0", "begin",
    ),
    "param_scheduler = [dict(type='StepLR', step_size=1, gama=2)]": ("scheduler.0", "'gama'"),
    "param_scheduler = [dict(type='MultiStep', milestones=[1])]": ("MultiStep is not",),
    "model = dict(backbone=dict(conv_cgf=None))": ("model", "'conv_cgf'"),
    "model = dict(type='MaskRCNNN')": ("model", "MaskRCNNN is not in the"),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole_config(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny config without bases of MMDetection's: to look for them takes a second."""
    path = tmp_path_factory.mktemp("config") / "whole.py"
    Config.fromfile(tiny_config).dump(path)
    return path


@pytest.mark.parametrize("fault", FAULTS)
def test_one_sentence(
    fault: str, whole_config: Path, coco_set: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    config, work = tmp_path / "own.py", tmp_path / "work"
    config.write_text(f"_base_ = {str(whole_config)!r}\n{fault}\n")
    said = refusal(train, config, "--data-root", coco_set, "--work-dir", work)
    assert all(words in said for words in FAULTS[fault]), said
    assert said.replace("config's", "").count("'") % 2 == 0, f"a quote was lost: {said}"
    assert not work.exists()


def test_what_can_be_built(whole_config: Path, tmp_path: Path, coco_set: Path) -> None:
    """Of all kinds: oracle, that nothing is said."""
    config = tmp_path / "own.py"
    config.write_text(
        f"_base_ = {str(whole_config)!r}\n"
        "optim_wrapper = dict(clip_grad=dict(type='value', clip_value=1), "
        "optimizer=dict(_delete_=True, type='AdamW'))\n"
        "param_scheduler = [dict(type='CosineAnnealingLR', T_max=3, convert_to_iter_based=True)]\n"
        "train_dataloader = dict(num_workers=2, persistent_workers=True, prefetch_factor=3, "
        "dataset=dict(_delete_=True, type='ClassBalancedDataset', oversample_thr=.1, "
        "dataset=dict(type='CocoDataset', ann_file='annotations/instances_train2017.json', "
        "data_prefix=dict(img='train2017/'), pipeline=[])))\n"
    )
    cfg = load_config(str(config), data_root=str(coco_set), work_dir=str(tmp_path / "work"))
    preflight.check_training(cfg)


def test_a_model_that_wants_a_package(whole_config: Path, tmp_path: Path) -> None:
    """Whatever a model raises. Oracle: its own words."""
    config = tmp_path / "own.py"
    config.write_text(
        f"_base_ = {str(whole_config)!r}\n"
        "custom_imports = dict(imports=['failing_model'], allow_failed_imports=False)\n"
        "model = dict(backbone=dict(_delete_=True, type='Failing'))\n"
    )
    (tmp_path / "failing_model.py").write_text(
        "from mmdet.registry import MODELS\n"
        "@MODELS.register_module(force=True)\n"
        "def Failing():\n    raise RuntimeError('')\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        cfg = load_config(str(config))
    with pytest.raises(InputError, match=r"model cannot be built \(RuntimeError: RuntimeError\)"):
        preflight.build_model(cfg)


def test_what_is_built_says_nothing(
    whole_config: Path, tmp_path: Path, coco_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MMEngine tells of each parameter with options of its own, and once is enough."""
    config = tmp_path / "own.py"
    config.write_text(
        f"_base_ = {str(whole_config)!r}\n"
        "optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.))\n"
    )
    cfg = load_config(str(config), data_root=str(coco_set), work_dir=str(tmp_path / "work"))
    preflight.check_training(cfg)
    said = capsys.readouterr()
    assert "paramwise_options" not in said.out + said.err
