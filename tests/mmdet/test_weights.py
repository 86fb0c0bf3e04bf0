"""Which checkpoints are read, and which weights fit."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader, _load_checkpoint

from ws_det import WSConv2d, fold_ws
from ws_det.errors import InputError
from ws_det.mmdet import fit, weights
from ws_det.mmdet.config import load_config


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


@pytest.fixture
def backbone(tiny_config: Path) -> torch.nn.Module:
    """The tiny config's backbone, GN+WS."""
    return MODELS.build(load_config(str(tiny_config)).model.backbone)


def test_weights_of_the_same_backbone(backbone: torch.nn.Module, tmp_path: Path) -> None:
    """Plain, below ``state_dict``, with a prefix, from inside DDP: oracle is that none raises."""
    state = backbone.state_dict()
    path = tmp_path / "w.pth"
    for saved, prefix in (
        (state, None),
        ({"state_dict": state}, None),
        ({f"module.{k}": v for k, v in state.items()}, None),
        ({f"backbone.{k}": v for k, v in state.items()}, "backbone"),
        ({**state, "fc.weight": torch.zeros(9, 9)}, None),  # the classifier of the pretraining
    ):
        torch.save(saved, path)
        fit.check_backbone(backbone, str(path), prefix)


def test_weights_of_another_depth(backbone: torch.nn.Module, tmp_path: Path) -> None:
    """Half of the layers are missing."""
    state = {k: v for k, v in backbone.state_dict().items() if not k.startswith("layer4")}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"another model, \d\d% of ResNet .* layer4\.0\.conv1"):
        fit.check_backbone(backbone, str(tmp_path / "w.pth"))


def test_folded_weights(backbone: torch.nn.Module, tmp_path: Path) -> None:
    """A mark in the metadata tells, alone and inside a detector."""
    folded = fold_ws(copy.deepcopy(backbone))
    for module, prefix in ((folded, None), (torch.nn.ModuleDict({"backbone": folded}), "backbone")):
        torch.save(module.state_dict(), tmp_path / "w.pth")
        with pytest.raises(InputError, match="folded from WS"):
            fit.check_backbone(backbone, str(tmp_path / "w.pth"), prefix)


@pytest.mark.parametrize("option", [{"adaptive": True}, {"center": False}])
def test_plain_weights_into_ws_that_can_take_them(
    backbone: torch.nn.Module, tmp_path: Path, option: dict[str, bool]
) -> None:
    """An adaptive kernel initializes itself from plain weights; without centring means train."""
    shifted = {k: v + 0.3 * (v.ndim == 4) for k, v in backbone.state_dict().items()}
    torch.save(shifted, tmp_path / "w.pth")
    with pytest.raises(InputError, match="without WS"):
        fit.check_backbone(backbone, str(tmp_path / "w.pth"))
    for module in backbone.modules():
        if isinstance(module, WSConv2d):
            for name, value in option.items():
                setattr(module, name, value)
    fit.check_backbone(backbone, str(tmp_path / "w.pth"))


def test_start_from_a_detector_with_other_classes(
    tiny_config: Path, trained: tuple[Path, str], tmp_path: Path
) -> None:
    """80 classes from a checkpoint with 2: the heads differ, and that is what fine-tuning is."""
    model = MODELS.build(load_config(str(tiny_config)).model)
    path = str(shutil.copy(trained[0] / "epoch_1.pth", tmp_path / "c.pth"))
    fit.check_start(model, path)
    with pytest.raises(InputError, match=r"of another shape, as roi_head\.bbox_head\.fc_cls"):
        fit.check_whole(model, path)
