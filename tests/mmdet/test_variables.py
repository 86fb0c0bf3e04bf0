"""Options for a variable of a config's file, which nothing reads once the config is parsed.

Oracle: the file with the variable edited in its text. The settings that the sentence names make the
same config of the file as it was.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mmengine.config import Config

from ws_det.errors import InputError
from ws_det.mmdet.config import load_config
from ws_det.mmdet.options import merge_options

BASE = """
max_iters = 270000
root = 'data/coco/'
resize = dict(type='Resize', scale=(1333, 800))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters)
param_scheduler = [dict(type='LinearLR', end=500), dict(type='MultiStepLR', end=max_iters)]
pipeline = [dict(type='LoadImageFromFile'), resize]
train_dataloader = dict(
    batch_size=2, dataset=dict(type='CocoDataset', data_root=root, pipeline=pipeline))
"""
CHILD = """
_base_ = 'base.py'
width = 123
model = dict(type='MaskRCNN', neck=dict(type='FPN', out_channels=width))
val_dataloader = dict(dataset=dict(data_root=_base_.root))
"""
EDITS = {
    "max_iters": ("max_iters = 270000", "max_iters = 7", 7),
    "root": ("root = 'data/coco/'", "root = 'x/'", "x/"),
    "resize.scale": ("scale=(1333, 800)", "scale=(9, 8)", (9, 8)),
    "pipeline.1.scale": ("scale=(1333, 800)", "scale=(9, 8)", (9, 8)),
    "width": ("width = 123", "width = 5", 5),
}


def written(root: Path, edit: tuple[str, str, object] | None = None) -> str:
    root.mkdir()
    for name, text in (("base.py", BASE), ("own.py", CHILD)):
        (root / name).write_text(text.replace(*edit[:2]) if edit else text)
    return str(root / "own.py")


@pytest.mark.parametrize("option", EDITS)
def test_the_settings_that_are_named(option: str, tmp_path: Path) -> None:
    path = written(tmp_path / "own")
    with pytest.raises(InputError, match=f"--cfg-options {option}: .* no setting") as refused:
        load_config(path, {option: EDITS[option][2]})
    named = re.search(r"any more: change (.*)$", str(refused.value))[1].split(", ")
    cfg = Config.fromfile(path)
    merge_options(cfg, dict.fromkeys(named, EDITS[option][2]))
    expected = Config.fromfile(written(tmp_path / "edited", EDITS[option]))
    for key in ("model", "train_cfg", "param_scheduler", "train_dataloader", "val_dataloader"):
        assert cfg[key] == expected[key], key


def test_variables_of_a_supplied_config() -> None:
    """Marked with the scope of their package. The Runner's own are settings."""
    name = "mask-rcnn_r50_fpn_gn-ws-all_2x_coco"
    with pytest.raises(InputError, match=r"change visualizer\.vis_backends$"):
        load_config(name, {"vis_backends": []})
    with pytest.raises(InputError, match=r"train_dataloader\.dataset\.data_root, val_"):
        load_config(name, {"data_root": "x"})
    with pytest.raises(InputError, match="change what was made of it"):
        load_config(name, {"backend_args": 3})  # None says not where it went
    cfg = load_config(name, {"custom_hooks": [], "default_hooks.logger.interval": 7})
    assert cfg.default_hooks.logger.interval == 7
