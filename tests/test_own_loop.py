"""docs/own_loop.md in torch alone, and what it names. Oracle: what a loop by hand would leave."""

from __future__ import annotations

import re
from collections import OrderedDict
from importlib import import_module
from itertools import cycle
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing as mp
from torch import nn

from tests.own_loop import BLOCKS, DOC
from ws_det import BatchChannelNorm2d, WSConv2d, drift
from ws_det.estimates import StepEstimates
from ws_det.leaving import leave_group
from ws_det.norms import average_estimates


class Network(nn.Module):
    """Under the names of torchvision."""

    def __init__(self):
        super().__init__()
        block = OrderedDict(conv1=nn.Conv2d(8, 8, 3), bn1=nn.BatchNorm2d(8))
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(nn.Sequential(block))

    def forward(self, images):
        return {"loss": self.layer1(self.bn1(self.conv1(images)).relu()).square().mean()}


def test_torch(tmp_path, monkeypatch, capsys):
    """Detectron2's names come in; the estimates have moved once a step."""
    monkeypatch.chdir(tmp_path)
    kernel = torch.randn(8, 3, 3, 3)
    names = {"stem.conv1.weight": kernel, "res2.0.conv1.weight": torch.randn(8, 8, 3, 3)}
    torch.save(names, "weights.pth")
    model, batches = Network(), cycle(torch.randn(4, 2, 3, 12, 12))
    seen = []
    space = dict(model=model, batches=batches, steps=2, passes=3)
    model.register_forward_pre_hook(lambda *_: seen.append(model.conv1.weight.detach().clone()))
    exec(BLOCKS["torch"], space)
    assert torch.equal(seen[0], kernel) and not torch.equal(seen[-1], kernel)
    assert isinstance(model.conv1, WSConv2d) and isinstance(model.bn1, BatchChannelNorm2d)
    assert len(seen) == 6 and all(map(torch.equal, seen[:3], [kernel] * 3))
    assert "the weights are of Detectron2, and 2 of them are loaded" in capsys.readouterr().err


def _steps(rank, path, averaged):
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=2)
    said = []
    drift.warn = said.append
    model = nn.Sequential(WSConv2d(3, 8, 3), BatchChannelNorm2d(8, 2, estimate=True))
    ddp = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD(ddp.parameters(), 0.1)
    counts = []
    for _ in range(3):
        optimizer.zero_grad()
        for _ in range(2):
            ddp(torch.randn(1, 3, 8, 8)).square().mean().backward()
            counts.append(len(said))
        optimizer.step()
        if averaged:
            average_estimates(ddp)
    torch.save(counts, f"{path}/{rank}.pth")
    leave_group()


@pytest.mark.parametrize("averaged", [False, True])
def test_estimates_that_nobody_averages_are_told_once(tmp_path: Path, averaged):
    """By the first process, and not before the loop had its chance: at the second step."""
    mp.spawn(_steps, args=(str(tmp_path), averaged), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    assert first == ([0] * 6 if averaged else [0, 0, 1, 1, 1, 1])
    assert second == [0] * 6


@pytest.mark.parametrize("managed", [False, True])
@pytest.mark.parametrize("zero_first", [False, True])
@pytest.mark.parametrize("passes", [1, 2, 4])
def test_passes_that_each_move_the_estimates_are_told(monkeypatch, passes, zero_first, managed):
    """Not where a norm serves two levels in a pass, nor for steps that are left out at first."""
    said = []
    monkeypatch.setattr(drift, "warn", said.append)
    monkeypatch.setattr(drift, "_told", set())
    conv, norm = WSConv2d(3, 8, 3), BatchChannelNorm2d(8, 2, estimate=True)
    model = nn.Sequential(conv, norm)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    estimates = StepEstimates(model)
    for step in range(25):
        if zero_first:
            optimizer.zero_grad()
        for number in range(passes):
            if managed:
                estimates.begin_pass()
            loss = sum(model(torch.randn(1, 3, size, size)).square().mean() for size in (6, 9))
            if not (zero_first or number):
                optimizer.zero_grad()  # as Detectron2 does, between forward and backward
            loss.backward()
            if managed:
                estimates.end_pass(last=number == passes - 1)
        if step >= 3:
            optimizer.step()
    assert len(said) == (passes > 1 and not managed)
    assert all("in each of several passes of an optimizer step" in sentence for sentence in said)


def test_what_the_page_names_exists():
    for name in set(re.findall(r"`(ws_det(?:\.\w+)+)`", DOC)):
        module, _, attribute = name.rpartition(".")
        if "detectron2" not in name and "mmdet" not in name:
            assert hasattr(import_module(module), attribute), name
    assert sorted(BLOCKS) == [
        "detectron2, accumulation", "detectron2, lazy", "detectron2, yaml", "mmdet", "torch",
    ]  # fmt: skip
