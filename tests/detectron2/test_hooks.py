"""EstBN on two processes. Oracle: the other rank, and one process that saw the images of both."""

from __future__ import annotations

import logging

import pytest
import torch
from detectron2.engine import launch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from ws_det import BatchChannelNorm2d, EstBatchNorm2d
from ws_det.detectron2.hooks import SyncEstBNHook, frozen_statistics
from ws_det.detectron2.train import leave_groups
from ws_det.detectron2.trainer import AccumulatingTrainer
from ws_det.normalization import est_batch_norm


class Normalized(nn.Sequential):
    def forward(self, batch):
        return {"loss": super().forward(batch).square().mean()}


def images(rank, step):
    generator = torch.Generator().manual_seed(10 * step + rank)
    return torch.randn(1, 4, 5, 5, generator=generator) * 2 + rank


def est_bn_rank(path):
    rank = torch.distributed.get_rank()
    model = nn.parallel.DistributedDataParallel(
        Normalized(EstBatchNorm2d(4, momentum=0.3)), broadcast_buffers=False
    )
    trainer = AccumulatingTrainer(model, torch.optim.SGD(model.parameters(), lr=0.1), seed=0)
    trainer.register_hooks([SyncEstBNHook()])
    trainer.data_loader = [images(rank, step) for step in range(5)]
    trainer.train(0, 5)
    torch.save(dict(model.module.named_buffers()), f"{path}/{rank}.pth")
    leave_groups()


def test_estimates_are_those_of_the_whole_batch(tmp_path):
    launch(est_bn_rank, 2, dist_url="auto", args=(str(tmp_path),))
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1))
    mean, var = torch.zeros(4), torch.ones(4)
    for step in range(5):
        both = torch.cat([images(0, step), images(1, step)])
        est_batch_norm(both, mean, var, training=True, momentum=0.3)
    for name, expected in (("0.running_mean", mean), ("0.running_var", var)):
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], expected)


def test_accumulation_moves_the_estimates_once_a_step():
    """Oracle: the formula on both images of each step, in float32."""
    model = Normalized(EstBatchNorm2d(4, momentum=0.3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = AccumulatingTrainer(model, optimizer, seed=0, accumulation=2)
    trainer.register_hooks([SyncEstBNHook()])
    trainer.data_loader = [images(rank, step) for step in range(3) for rank in range(2)]
    trainer.train(0, 3)
    mean, var = torch.zeros(4), torch.ones(4)
    for step in range(3):
        both = torch.cat([images(0, step), images(1, step)])
        est_batch_norm(both, mean, var, training=True, momentum=0.3)
    torch.testing.assert_close(model[0].running_mean, mean)
    torch.testing.assert_close(model[0].running_var, var)


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_statistics_are_named(frozen, caplog):
    """Oracle: whether the buffers move in a step."""
    model = Normalized(EstBatchNorm2d(4), BatchChannelNorm2d(4, 2, estimate=True))
    scale = nn.Conv2d(4, 4, 1)  # something to train
    model.append(scale)
    for norm in list(model)[:2] if frozen else ():
        norm.requires_grad_(False)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    trainer = AccumulatingTrainer(model, torch.optim.SGD(scale.parameters(), lr=0.1), seed=0)
    trainer.register_hooks([SyncEstBNHook()])
    trainer.data_loader = [images(0, 0)]
    with caplog.at_level(logging.WARNING):
        trainer.train(0, 1)
    moved = [n for n, b in model.named_buffers() if not torch.equal(before[n], b)]
    assert frozen_statistics(model) == (["0", "1"] if frozen else [])
    assert bool(moved) is not frozen
    assert ("2 EstBN or BCN layers are frozen" in caplog.text) is frozen


def test_a_frozen_large_batch_bcn_is_named():
    """Oracle: what detectron2's freeze() makes of its inner batch norm."""
    norm = BatchChannelNorm2d(4, 2)
    norm.requires_grad_(False)
    model = FrozenBatchNorm2d.convert_frozen_batchnorm(nn.Sequential(norm))
    assert isinstance(model[0].bn, FrozenBatchNorm2d) and frozen_statistics(model) == ["0"]
