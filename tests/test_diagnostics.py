"""Channel statistics. Oracle: plain float64 arithmetic on activations kept whole."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ws_det import BatchChannelNorm2d, EstBatchNorm2d, InputError, WSConv2d
from ws_det.diagnostics import (
    ChannelStatistics,
    channel_statistics,
    share_nearly_dead,
    worst_channels,
)


def network() -> nn.Sequential:
    norms = (
        nn.BatchNorm2d(4),
        EstBatchNorm2d(4),
        BatchChannelNorm2d(4, 2, estimate=True),
        nn.GroupNorm(2, 4),
    )
    layers = [[WSConv2d(4, 4, 3, padding=1), norm, nn.ReLU(inplace=True)] for norm in norms]
    model = nn.Sequential(*(layer for trio in layers for layer in trio))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def entering(model: nn.Sequential, batches: list[Tensor]) -> dict[str, Tensor]:
    """What enters each ReLU, all batches together: (C, cells) in float64."""
    kept: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for x in batches:
            for name, layer in model.named_children():
                if isinstance(layer, nn.ReLU):
                    cells = x.double().permute(1, 0, 2, 3).reshape(4, -1)
                    kept.setdefault(str(int(name) - 1), []).append(cells)
                x = layer(x)
    return {name: torch.cat(values, 1) for name, values in kept.items()}


def test_statistics_are_those_of_all_cells() -> None:
    model = network().eval()
    batches = [torch.randn(n, 4, h, 6) for n, h in ((2, 5), (1, 3), (3, 8))]
    expected = entering(model, batches)
    found = channel_statistics(model, batches)
    assert list(found) == list(expected) == ["1", "4", "7", "10"]
    for name, cells in expected.items():
        # the order of float64 sums differs, nothing else
        close = dict(rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found[name].mean, cells.mean(1), **close)
        torch.testing.assert_close(found[name].std, cells.std(1, correction=0), **close)
        normalized = cells.mean(1) / cells.std(1, correction=0)
        torch.testing.assert_close(found[name].normalized_mean, normalized, **close)
        assert torch.equal(found[name].active, (cells > 0).double().mean(1))


def test_a_small_deviation_far_from_zero() -> None:
    """The deviation of 1e6 + {0, 1}, which sums of squares in float32 would lose: oracle, 1/2."""
    model = nn.Sequential(nn.BatchNorm2d(1, eps=0), nn.ReLU())
    x = 1e6 + torch.arange(8).remainder(2).float().reshape(2, 1, 2, 2)
    found = channel_statistics(model, x.split(1))["0"]
    assert found.mean.item() == 1e6 + 0.5 and found.std.item() == 0.5


@pytest.mark.parametrize(("value", "normalized"), [(-3.0, -math.inf), (0.1, math.inf), (0, 0)])
def test_a_constant_channel(value: float, normalized: float) -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU())
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0, value
    found = channel_statistics(model, torch.randn(3, 2, 2, 3, 3))["0"]
    assert found.std[1] == 0 and found.normalized_mean[1] == normalized
    assert found.nearly_dead.tolist() == [False, value <= 0]


def test_nothing_of_the_model_changes() -> None:
    model = network().train()
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    channel_statistics(model, torch.randn(2, 1, 4, 5, 5))
    modes = [module.training for module in model]
    assert modes == [True, False, *[True] * 10] and model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_norm_over_several_levels_is_one_layer() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)

        def forward(self, levels: list[Tensor]) -> None:
            for level in levels:
                torch.relu_(self.norm(self.conv(level)))

    head, levels = Head(), [torch.randn(1, 3, size, size) for size in (4, 2)]
    found = channel_statistics(head, [levels])
    with torch.no_grad():
        cells = torch.cat([head.norm(head.conv(level)).flatten(2) for level in levels], 2)[0]
    assert list(found) == ["norm"]
    torch.testing.assert_close(found["norm"].mean, cells.double().mean(1), rtol=1e-12, atol=1e-12)


def test_an_empty_input_is_left_out() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    some = torch.randn(2, 3, 4, 4)
    found = channel_statistics(model, [torch.zeros(0, 3, 4, 4), some])["0"]
    assert torch.equal(found.mean, channel_statistics(model, [some])["0"].mean)


def test_a_batch_may_need_a_forward_of_its_own() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    found = channel_statistics(model, [{"x": torch.ones(2, 3)}], lambda m, batch: m(batch["x"]))
    assert found["0"].active.tolist() == [1, 1, 1]


def test_ddp_is_taken_out(tmp_path: Path) -> None:
    model, x = network(), torch.randn(1, 2, 4, 5, 5)
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", store, rank=0, world_size=1)
    try:
        found = channel_statistics(nn.parallel.DistributedDataParallel(model), x)
    finally:
        torch.distributed.destroy_process_group()
    expected = channel_statistics(model, x)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name].mean, expected[name].mean) for name in expected)


def test_what_it_refuses() -> None:
    with pytest.raises(InputError, match="Sequential has no batch, group or instance norm"):
        channel_statistics(nn.Sequential(nn.Conv2d(3, 3, 1)), [])
    with pytest.raises(InputError, match="nothing entered a nonlinearity behind the 4 norms"):
        channel_statistics(network(), [])
    model, x = network(), torch.ones(1, 4, 3, 3)
    for bad in (math.nan, math.inf):
        with torch.no_grad():
            model[4].bias[2] = bad
        with pytest.raises(InputError, match="enters the nonlinearity behind 4 is NaN or infinite"):
            channel_statistics(model.train(), [x])
        assert model.training and not model[4]._forward_hooks


def test_the_worst_come_first() -> None:
    def layer(mean: list[float], active: list[float]) -> ChannelStatistics:
        mean = torch.tensor(mean, dtype=torch.float64)
        return ChannelStatistics(mean, torch.ones_like(mean), torch.tensor(active))

    statistics = {
        "a": layer([-1.0, -5.0, 2.0], [0.25, 0.0, 1.0]),
        "b": layer([-9.0], [0.0]),
    }
    assert worst_channels(statistics, 3) == [
        ("b", 0, 0.0, -9.0),
        ("a", 1, 0.0, -5.0),
        ("a", 0, 0.25, -1.0),
    ]
    assert len(worst_channels(statistics)) == 4
    assert share_nearly_dead(statistics) == 0.5


def test_nearly_dead_is_less_than_a_hundredth() -> None:
    active = torch.tensor([0, 0.0099, 0.01, 1])
    own = ChannelStatistics(active, active, active)
    assert own.nearly_dead.tolist() == [True, True, False, False]


def test_a_channel_killed_by_hand_is_named_first() -> None:
    model = network()
    for norm in model[1::3]:  # random ones kill channels of their own
        nn.init.ones_(norm.weight), nn.init.zeros_(norm.bias)
    with torch.no_grad():
        model[4].bias[3] = -100
    worst = worst_channels(channel_statistics(model, torch.randn(2, 2, 4, 5, 5)))[0]
    assert (worst.layer, worst.channel, worst.active) == ("4", 3, 0)
    assert worst.normalized_mean < 0
