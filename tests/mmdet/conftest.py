"""A detector so small that a whole training takes a second."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmdet")

from mmdet.models.roi_heads.mask_heads import fcn_mask_head
from mmengine.registry import DefaultScope
from torch import Tensor

from tests.conftest import run

CONFIG = """
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['ws_det.mmdet'], allow_failed_imports=False)
ws = dict(conv_cfg=dict(type='WSConv2d'), norm_cfg=dict(type='GN', num_groups=8))
model = dict(
    backbone=dict(
        depth=18, base_channels=16, frozen_stages=-1, norm_eval=False, init_cfg=None, **ws),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=16, **ws),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        mask_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=16),
        mask_head=dict(in_channels=16, num_convs=1, conv_out_channels=16, **ws)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=50, max_per_img=16), rcnn=dict(sampler=dict(num=16))),
    test_cfg=dict(
        rpn=dict(nms_pre=50, max_per_img=16), rcnn=dict(score_thr=0.0, max_per_img=10)))
train_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False,
    dataset=dict(filter_cfg=dict(filter_empty_gt=False)))
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
for loader, resize in ((train_dataloader, 2), (val_dataloader, 1), (test_dataloader, 1)):
    pipeline = _base_.train_pipeline if resize == 2 else _base_.test_pipeline
    pipeline[resize]['scale'] = (96, 64)
    loader['dataset'] = dict(loader.get('dataset', {}), pipeline=pipeline)
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
"""


@pytest.fixture(autouse=True)
def scope() -> Iterator[None]:
    """MMDetection's scope for every test: a Runner leaves its own behind for the process."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a whole detector run in float64: what takes float32 alone gets it.

    That is the choice of boxes by NMS, and the place of a mask's pixels.
    """
    extension = import_module("mmcv.ops.nms").ext_module
    nms, paste = extension.nms, fcn_mask_head._do_paste_mask

    def nms_of_float32(boxes: Tensor, scores: Tensor, **options: Any) -> Tensor:
        return nms(boxes.float(), scores.float(), **options)

    def paste_by_float32(masks: Tensor, boxes: Tensor, *rest: Any, **options: Any) -> Any:
        return paste(masks, boxes.float(), *rest, **options)

    monkeypatch.setattr(extension, "nms", nms_of_float32)
    monkeypatch.setattr(fcn_mask_head, "_do_paste_mask", paste_by_float32)


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GN+WS Mask R-CNN with 16 channels for images of 96 x 64, one epoch."""
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: Path, coco_set: Path
) -> tuple[Path, str]:
    """The work dir and output of one epoch on two processes, 3 iterations each."""
    work_dir = tmp_path_factory.mktemp("trained") / "work"
    done = run(
        "train",
        tiny_config,
        "--data-root",
        coco_set,
        "--work-dir",
        work_dir,
        "--launcher",
        "pytorch",
        "--auto-scale-lr",
        processes=2,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return work_dir, done.stdout
