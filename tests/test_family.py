"""The family of norms, told from really trained weights, and where nothing tells, not told."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ws_det import BatchChannelNorm2d, WSConv2d, convert_to_ws, fold_ws
from ws_det.family import Family, mean_ratios, norm_family


def trained(
    conv: type[nn.Module], norm: Callable[[int], nn.Module], optimizer: str = "SGD", steps: int = 60
) -> nn.Sequential:
    """A small network trained by SGD, the optimizer of every published backbone, or another.

    Task: which of four orientations a noisy stripe pattern on a bright ground has. ReLU features
    and bright images are positive, which is what trains the means of plain filters.
    """
    parts: list[nn.Module] = []
    channels = 3
    for size, stride in ((3, 1), (3, 2), (1, 1), (3, 2), (1, 1)):
        layer = conv(channels, 64, size, stride=stride, padding=size // 2, bias=False)
        parts += [layer, norm(64), nn.ReLU()]
        channels = 64
    model = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))
    if optimizer == "SGD":
        steps_of = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    else:
        steps_of = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.02)
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    angles = torch.arange(4) * math.pi / 4
    waves = torch.stack([torch.sin(a.cos() * rows + a.sin() * columns) for a in angles])
    for _ in range(steps):
        labels = torch.randint(4, (16,))
        images = waves[labels, None] + torch.randn(16, 3, 16, 16) + 2
        steps_of.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        steps_of.step()
    return model


def group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(8, channels)


FAMILIES = {
    "gn": (nn.Conv2d, group_norm),
    "gn+ws": (WSConv2d, group_norm),
    "bn": (nn.Conv2d, nn.BatchNorm2d),
    "bn+ws": (WSConv2d, nn.BatchNorm2d),
    "bcn+ws": (WSConv2d, lambda channels: BatchChannelNorm2d(channels, 8)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_family_of_trained_weights(family: str) -> None:
    """Oracle: how the weights were trained, here, in this test; folded they are not raw ones."""
    norm, _, ws = family.partition("+")
    model = trained(*FAMILIES[family])
    assert norm_family(model.state_dict()) == Family(norm, bool(ws), False)
    if ws:
        folded = fold_ws(model).state_dict()
        assert norm_family(folded) == Family(norm, None, True)
        assert norm_family(dict(folded)) == Family(norm, None, False)  # the mark lost


@pytest.mark.parametrize("conv", [nn.Conv2d, WSConv2d])
def test_adam_is_not_told_wrongly(conv: type[nn.Module]) -> None:
    """It moves the means of WS filters too. Oracle: how they were trained; None is no answer."""
    assert norm_family(trained(conv, group_norm, "AdamW").state_dict()).ws in (
        None,
        issubclass(conv, WSConv2d),
    )


@pytest.mark.parametrize("conv", [nn.Conv2d, WSConv2d])
def test_nothing_tells_random_weights(conv: type[nn.Module]) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        model = trained(conv, group_norm, steps=0)
        assert norm_family(model.state_dict()) == Family("gn", None, False)


def test_adaptive_ws_has_keys_of_its_own() -> None:
    model = convert_to_ws(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), adaptive=True)
    assert norm_family(model.state_dict()) == Family("bn", True, False)


def test_what_is_no_network() -> None:
    """No kernels, no norms, other kinds of numbers, NaN: nothing tells, and nothing is raised."""
    odd: dict[str, object] = {
        "a": torch.full((64, 4, 3, 3), math.nan),
        "b": torch.ones(64, 4, 3, 3, dtype=torch.int8),
        "c": torch.empty(0, 4, 3, 3),
        "d": torch.zeros(64, 4, 3, 3),
        "e": "text",
        "f": torch.ones(1, 4, 3, 3, dtype=torch.complex64),
    }
    for state in ({}, {"fc.weight": torch.randn(4, 4)}, odd, *({k: v} for k, v in odd.items())):
        assert norm_family(state) == Family("", None, False)
    assert norm_family({"conv1_w": torch.randn(8, 3, 3, 3), "res_conv1_bn_s": 1}).norm == "bn"


def test_mean_ratio_of_random_filters() -> None:
    """Oracle: the median of |N(0, 1)|, 0.6745; 4000 filters leave it within 0.05."""
    filters: Tensor = torch.randn(4000, 144)
    assert float(mean_ratios(filters).median()) == pytest.approx(0.6745, abs=0.05)
    shifted = copy.deepcopy(filters) + 3 / 144**0.5
    assert float(mean_ratios(shifted).median()) == pytest.approx(3, abs=0.1)
