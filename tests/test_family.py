"""The family of norms, told from really trained weights."""

import math

import pytest
import torch
from torch import nn

from ws_det import BatchChannelNorm2d, WSConv2d, fold_ws
from ws_det.family import mean_ratio, norm_family


def trained(conv, norm, steps=150):
    """A small network trained by SGD, the optimizer of every published backbone.

    Task: which of four orientations a noisy stripe pattern on a bright ground has. ReLU features
    and bright images are positive, which is what trains the means of plain filters.
    """
    model = nn.Sequential(
        conv(3, 16, 3, bias=False), norm(16), nn.ReLU(),
        conv(16, 32, 3, stride=2, bias=False), norm(32), nn.ReLU(),
        conv(32, 32, 3, bias=False), norm(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    angles = torch.arange(4) * math.pi / 4
    waves = torch.stack([torch.sin(a.cos() * rows + a.sin() * columns) for a in angles])
    for _ in range(steps):
        labels = torch.randint(4, (16,))
        images = waves[labels, None] + torch.randn(16, 3, 16, 16) + 2
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


FAMILIES = {
    "gn": (nn.Conv2d, lambda c: nn.GroupNorm(4, c)),
    "gn+ws": (WSConv2d, lambda c: nn.GroupNorm(4, c)),
    "bn": (nn.Conv2d, nn.BatchNorm2d),
    "bcn": (WSConv2d, lambda c: BatchChannelNorm2d(c, 4)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_family_of_trained_weights(family):
    """Oracle: how the weights were trained, here, in this test."""
    model = trained(*FAMILIES[family])
    assert norm_family(model.state_dict()) == family


def test_family_of_folded_and_of_random_weights():
    """Oracle: the mark; and random kernels, which must not be taken for GN weights."""
    model = nn.Sequential(WSConv2d(3, 64, 3), nn.GroupNorm(4, 64))
    assert norm_family(model.state_dict()) == "gn+ws"
    assert norm_family(fold_ws(model).state_dict()) == "folded"


def test_mean_ratio_of_random_filters():
    """Oracle: the median of |N(0, 1)|, 0.6745; 4000 filters leave it within 0.05."""
    assert mean_ratio({"w": torch.randn(4000, 16, 3, 3)}) == pytest.approx(0.6745, abs=0.05)
    assert mean_ratio({"fc.weight": torch.randn(4, 4)}) == 0
