"""Which checkpoints are read, by whom, and from where."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader, _load_checkpoint

from ws_det.errors import InputError
from ws_det.mmdet import weights


class Runs:
    """What a malicious file does: a folder is made when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_training_checkpoint_is_read_whole(trained: tuple[Path, str]) -> None:
    """Oracle: MMEngine's log buffers and numpy arrays are in it, and work."""
    checkpoint = weights.load_safely(str(trained[0] / "epoch_1.pth"))
    losses = checkpoint["message_hub"]["log_scalars"]["train/loss"]
    assert isinstance(losses, HistoryBuffer) and len(losses.data[0]) == 3
    assert losses.statistics("mean") == pytest.approx(np.mean(losses.data[0]))


def test_release_of_the_ws_authors_starts_a_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the backbone that was saved as their code saves it, GN under the name bn."""
    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
    weights.use_safe_loader()
    cfg = dict(
        type="ResNet",
        depth=18,
        base_channels=32,
        conv_cfg=dict(type="WSConv2d"),
        norm_cfg=dict(type="GN", num_groups=8),
    )
    released = MODELS.build(cfg)
    state = {
        f"module.{key.replace('gn', 'bn')}": torch.randn_like(tensor)
        for key, tensor in released.state_dict().items()
    }
    state["module.fc.weight"] = torch.zeros(10, 256)
    torch.save({"state_dict": state, "epoch": 90, "optimizer": {}}, tmp_path / "R.pth.tar")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "R.pth.tar"))
    backbone = MODELS.build(cfg | dict(init_cfg=init))
    backbone.init_weights()
    for key, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, state[f"module.{key.replace('gn', 'bn')}"]), key


def test_weights_of_detectron2_without_a_place_are_refused(tmp_path: Path) -> None:
    state = {"backbone.bottom_up.res2.0.conv1.weight": torch.zeros(1, 1, 1, 1)}
    torch.save({"model": state}, tmp_path / "d2.pth")
    assert list(weights.load_safely(str(tmp_path / "d2.pth"))["state_dict"]) == [
        "backbone.layer1.0.conv1.weight"
    ]
    state["roi_heads.keypoint_head.conv_fcn1.weight"] = torch.zeros(1, 1, 3, 3)
    torch.save({"model": state}, tmp_path / "d2.pth")
    with pytest.raises(InputError, match=r"Detectron2.* 1 of its weights.*convert_checkpoint\.py"):
        weights.load_safely(str(tmp_path / "d2.pth"))


def test_getattr_in_a_checkpoint_reaches_nothing_else(tmp_path: Path) -> None:
    """MMEngine lets ``getattr`` in to restore its buffers; here it restores only those."""

    class Reaches:
        def __reduce__(self) -> tuple:
            return getattr, (HistoryBuffer, "__init__")

    torch.save({"state_dict": {}, "meta": Reaches()}, tmp_path / "c.pth")
    with pytest.raises(InputError, match="__init__"):
        weights.load_safely(str(tmp_path / "c.pth"))


def test_mmengine_reads_safely_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own loader runs the code in a file when the safe load fails. Oracle: the code's trace."""
    torch.save({"state_dict": {}, "meta": Runs(tmp_path / "ran")}, tmp_path / "c.pth")
    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
    weights.use_safe_loader()
    with pytest.raises(InputError, match="mkdir"):
        _load_checkpoint(str(tmp_path / "c.pth"), map_location="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("open-mmlab://jhu/resnet50_gn_ws", "resnet50_gn_ws-15beedd8.pth"),
        ("torchvision://resnet50", "resnet50-0676ba61.pth"),
        ("https://host/some.pth?raw=1", "some.pth"),
    ],
)
def test_urls_are_taken_from_torchs_cache(
    reference: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the file name in MMEngine's and torchvision's published lists."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub/checkpoints" / url
    cached.parent.mkdir(parents=True)
    torch.save({"conv1.weight": torch.ones(1)}, cached)
    assert weights.load_safely(reference)["conv1.weight"] == 1


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("open-mmlab://jhu/resnet50_gn_wss", "did you mean 'jhu/resnet50_gn_ws'"),
        ("torchvision://resnet51", "did you mean 'resnet5"),
        ("s3://bucket/x.pth", "s3:// are not supported"),
    ],
)
def test_unknown_urls(reference: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        weights.local_file(reference)
