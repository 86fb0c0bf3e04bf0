"""Saving checkpoints whole, and finding the newest. Oracle: what was saved."""

from __future__ import annotations

import resource

import pytest
import torch
from fvcore.common.checkpoint import PeriodicCheckpointer
from torch import nn

from ws_det.detectron2.weights import SafeCheckpointer, resume_point
from ws_det.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Three checkpoints as a training saves them."""
    checkpointer = SafeCheckpointer(nn.Linear(4, 4), str(tmp_path))
    periodic = PeriodicCheckpointer(checkpointer, period=1)
    for iteration in range(3):
        periodic.step(iteration)
    return tmp_path


def named(folder):
    return (folder / "last_checkpoint").read_text()


def test_the_last_one(folder):
    assert resume_point(str(folder)) == str(folder / "model_0000002.pth")
    assert named(folder) == "model_0000002.pth"
    assert torch.load(folder / named(folder), weights_only=True)["iteration"] == 2


def test_a_broken_one_and_parts(folder, capsys):
    last = folder / "model_0000002.pth"
    last.write_bytes(last.read_bytes()[:-1])
    (folder / ".model_0000003.pth.99.part").touch()
    assert resume_point(str(folder)) == str(folder / "model_0000001.pth")
    assert named(folder) == "model_0000001.pth"  # where Detectron2 looks
    assert not list(folder.glob(".*.part"))
    assert "model_0000002.pth is truncated" in capsys.readouterr().err


def test_an_empty_folder(tmp_path):
    assert resume_point(str(tmp_path)) is None


def test_a_full_disk_keeps_the_old_one(folder):
    old = (folder / "model_0000002.pth").read_bytes()
    checkpointer = SafeCheckpointer(nn.Linear(99, 99), str(folder))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot be written .File too large"):
            checkpointer.save("model_0000002")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (folder / "model_0000002.pth").read_bytes() == old
    assert not list(folder.glob(".*.part"))
