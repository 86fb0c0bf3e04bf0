"""A detector and a COCO-format set so small that a whole training takes a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("mmdet")

from mmengine.registry import DefaultScope
from PIL import Image

from ws_det.errors import run_tool

REPO = Path(__file__).resolve().parents[2]
# Not contiguous, so that an id taken for a label shows.
CATEGORIES = [{"id": 3, "name": "box"}, {"id": 7, "name": "bar"}]
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


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GN+WS Mask R-CNN with 16 channels for images of 96 x 64, one epoch."""
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    return path


def write_set(root: Path, train: int = 6, val: int = 4, empty: Sequence[int] = ()) -> Path:
    """Write a COCO-format set of noise with two rectangles an image, none in ``empty`` ones."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        (root / f"{part}2017").mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        images, annotations = [], []
        for i in range(count):
            pixels = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            images.append({"id": i + 1, "file_name": f"{i}.jpg", "width": 96, "height": 64})
            for category in CATEGORIES if i not in empty else ():
                x, y = (int(v) for v in rng.integers(0, 20, 2))
                w, h = (60, 12) if category["name"] == "bar" else (30, 30)
                pixels[y : y + h, x : x + w] //= 4
                corners = [x, y, x + w, y, x + w, y + h, x, y + h]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i + 1,
                        "iscrowd": 0,
                        "area": w * h,
                        "category_id": category["id"],
                        "bbox": [x, y, w, h],
                        "segmentation": [corners],
                    }
                )
            Image.fromarray(pixels).save(root / f"{part}2017" / f"{i}.jpg")
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (root / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def coco_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that no test changes."""
    return write_set(tmp_path_factory.mktemp("data") / "set")


def run(
    tool: str, *args: object, processes: int = 0, timeout: int = 240
) -> subprocess.CompletedProcess:
    """Run a tool as a user does, under torchrun with ``processes``; stdout has stderr in it."""
    command = [sys.executable]
    if processes:
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(REPO / "tools" / f"{tool}.py"), *(str(arg) for arg in args)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


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


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a tool that must refuse: exit code 2 and one sentence, which is returned."""

    def refuse(tool: ModuleType, *args: object) -> str:
        with pytest.raises(SystemExit) as end:
            run_tool(lambda: tool.main([str(arg) for arg in args]))
        assert end.value.code == 2
        errors = capsys.readouterr().err.splitlines()
        assert [line.startswith("error: ") for line in errors] == [True], errors
        return errors[0]

    return refuse
