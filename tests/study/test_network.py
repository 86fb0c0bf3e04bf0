"""The small residual network. Oracle: its arms counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ws_det.layers import WSConv2d
from ws_det.norms import BatchChannelNorm2d, EstBatchNorm2d
from ws_det.study.network import KERNELS, NORMS, build


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_arm_has_the_same_network(norm: str, kernel: str) -> None:
    torch.manual_seed(0)
    model = build(norm, kernel)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    # stem, two a stage, and a shortcut where resolution or width change
    assert [c.kernel_size for c in convs].count((3, 3)) == 7 and len(convs) == 9
    assert all(isinstance(c, WSConv2d) == (kernel != "plain") for c in convs)
    weights = 9 * (16 + 2 * 16**2 + 16 * 32 + 32**2 + 32 * 64 + 64**2) + 16 * 32 + 32 * 64 + 640
    assert sum(p.numel() for p in model.parameters() if p.ndim in (2, 4)) == weights
    kinds = {"BN": nn.BatchNorm2d, "GN": nn.GroupNorm, "BCN": BatchChannelNorm2d}
    norms = [m for m in model.modules() if isinstance(m, kinds[norm])]
    assert len(norms) == 9
    torch.manual_seed(0)
    reference = build("BN", "plain").state_dict()
    state = model.state_dict()
    for name, weight in reference.items():  # the same start
        assert weight.ndim < 2 or torch.equal(state[name], weight)
    model(torch.ones(2, 1, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_kernels_are_those_of_the_ablation() -> None:
    w = torch.randn(4, 3, 2, 2)
    flat = w.flatten(1)
    mean, std = flat.mean(1, keepdim=True), flat.std(1, keepdim=True) + 1e-5
    expected = {"mean": flat - mean, "deviation": flat / std, "ws": (flat - mean) / std}
    for kernel, rows in expected.items():
        conv = WSConv2d(3, 4, 2, **KERNELS[kernel])
        conv.weight.data = w
        assert torch.allclose(conv.standardized_weight().flatten(1), rows, atol=1e-6)


def test_bcn_is_the_micro_batch_form() -> None:
    assert any(isinstance(m, EstBatchNorm2d) for m in build("BCN", "ws").modules())
