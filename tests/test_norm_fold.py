"""Folded norms against the model before, in evaluation, in float64: 1e-12 of values around 1.

In float32 both round, the folded model in other places: 1e-5 of the output's norm.
"""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from ws_det import BatchChannelNorm2d, EstBatchNorm2d, WSConv2d, WSConvTranspose2d, fold_ws
from ws_det.fold import is_folded


def bcn(channels=8, groups=4, estimate=True):
    return BatchChannelNorm2d(channels, groups, estimate=estimate)


def settled(model):
    """In eval mode, every affine pair and statistic something of its own."""
    for norm in model.modules():
        if isinstance(norm, (EstBatchNorm2d, BatchChannelNorm2d, nn.BatchNorm2d)):
            nn.init.uniform_(norm.weight, -2, 2)
            nn.init.normal_(norm.bias)
            if getattr(norm, "running_mean", None) is not None:
                nn.init.normal_(norm.running_mean)
                nn.init.uniform_(norm.running_var, 0.5, 3)
    return model.double().eval()


def network(estimate=True):
    return nn.Sequential(
        WSConv2d(3, 8, 3, bias=False),
        bcn(estimate=estimate),
        nn.ReLU(),
        WSConv2d(8, 8, 3, groups=2),
        bcn(groups=2, estimate=estimate),
        WSConvTranspose2d(8, 8, 2, stride=2),
        bcn(estimate=estimate),
        nn.Conv2d(8, 8, 3),
        bcn(estimate=estimate),
        WSConv2d(8, 4, 1),
        EstBatchNorm2d(4),
    )


def assert_same(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12 * expected.abs().max().item())


@pytest.mark.parametrize("estimate", [True, False])
def test_bcn_becomes_a_convolution_and_a_group_norm(estimate):
    model = settled(network(estimate))
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    expected = model(x)
    assert fold_ws(model, bcn=True) is model
    assert_same(model(x), expected)
    assert [type(m) for m in model] == [
        nn.Conv2d, nn.GroupNorm, nn.ReLU, nn.Conv2d, nn.GroupNorm, nn.ConvTranspose2d,
        nn.GroupNorm, nn.Conv2d, nn.GroupNorm, nn.Conv2d, nn.BatchNorm2d,
    ]  # fmt: skip


def test_in_float32():
    model = settled(network()).float()
    x = torch.randn(2, 3, 9, 9)
    expected = model(x)
    got = fold_ws(model, bcn=True)(x)
    assert (got - expected).norm() <= 1e-5 * expected.norm()


def test_bcn_stays_unless_asked():
    """And its estimates go by their keys: oracle, the state dict of before."""
    model = settled(network())
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    keys, expected = list(model.state_dict()), model(x)
    assert_same(fold_ws(model)(x), expected)
    assert list(model.state_dict()) == keys
    assert isinstance(model[1].bn, EstBatchNorm2d)


def test_est_bn_becomes_the_batch_norm_of_the_same_keys():
    """Oracle: a plain model that loads the state dict strictly, bit by bit."""
    model = settled(nn.Sequential(WSConv2d(3, 8, 3), EstBatchNorm2d(8)))
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).double().eval()
    fold_ws(model)
    plain.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    assert torch.equal(plain(x), model(x))


class Shared(nn.Module):
    """A convolution with a norm for each of two levels, whose second name is that of a block."""

    def __init__(self):
        super().__init__()
        conv = WSConv2d(3, 8, 3)
        self.levels = nn.ModuleList(nn.Sequential(conv, bcn()) for _ in range(2))

    def forward(self, x):
        return torch.cat([level(x) for level in self.levels])


UNKNOWN = {
    "a convolution with two norms": Shared,
    "a norm behind two convolutions": lambda: nn.Sequential(
        *(lambda norm: (WSConv2d(3, 8, 3), norm, WSConv2d(8, 8, 3), norm))(bcn())
    ),
    "a norm behind something else": lambda: nn.Sequential(WSConv2d(3, 8, 3), nn.ReLU(), bcn()),
    "a class of someone else's": lambda: nn.Sequential(
        type("Scaled", (nn.Conv2d,), {"forward": lambda self, x: 2 * nn.Conv2d.forward(self, x)})(
            3, 8, 3
        ),
        bcn(),
    ),
    "a grouped transposed one": lambda: nn.Sequential(
        WSConv2d(3, 8, 3), nn.ReLU(), WSConvTranspose2d(8, 8, 2, groups=2), bcn()
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_where_no_convolution_can_take_it(case):
    """The batch norm stays in front of the GroupNorm, and no layer of ours is left."""
    model = settled(UNKNOWN[case]())
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    expected = model(x)
    fold_ws(model, bcn=True)
    assert_same(model(x), expected)
    ours = (BatchChannelNorm2d, EstBatchNorm2d, WSConv2d)
    assert not any(isinstance(m, ours) for m in model.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_a_lone_norm():
    """Oracle: the norm; what it becomes is returned, as there is no parent to put it into."""
    norm = settled(bcn())
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    expected = norm(x)
    folded = fold_ws(norm, bcn=True)
    assert [type(m) for m in folded] == [nn.BatchNorm2d, nn.GroupNorm]
    assert_same(folded(x), expected)


def test_training_is_refused_and_the_weights_are_marked():
    model = fold_ws(settled(nn.Sequential(nn.Conv2d(3, 8, 3), bcn())), bcn=True)
    assert is_folded(model.state_dict())
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    for part in (model, model[1]):
        with pytest.raises(RuntimeError, match="folded model cannot be trained"):
            part.train()(model[0].eval()(x) if part is model[1] else x)
    norm = fold_ws(settled(nn.Sequential(WSConv2d(3, 8, 3), EstBatchNorm2d(8))))[1]
    with pytest.raises(RuntimeError, match="folded model cannot be trained"):
        norm.train()(torch.randn(2, 8, 5, 5, dtype=torch.float64))


def test_frozen_parameters_stay_frozen():
    model = settled(nn.Sequential(nn.Conv2d(3, 8, 3), bcn()))
    model.requires_grad_(False)
    fold_ws(model, bcn=True)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("export", [torch.jit.script, torch.jit.trace])
def test_it_exports_to_torchscript(export):
    """Oracle: the folded model, bit by bit, after a file."""
    model = fold_ws(settled(network()), bcn=True)
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    file = io.BytesIO()
    torch.jit.save(export(model) if export is torch.jit.script else export(model, x), file)
    file.seek(0)
    assert torch.equal(torch.jit.load(file)(x), model(x))


def test_nothing_to_fold():
    with pytest.raises(ValueError, match="nothing to fold"):
        fold_ws(nn.Sequential(nn.Conv2d(3, 8, 3), copy.deepcopy(bcn())))
    with pytest.raises(RuntimeError, match="folded already"):
        fold_ws(fold_ws(network(), bcn=True))


def test_a_pruned_convolution_before_a_bcn_is_left_alone():
    """Its weight is computed at every call. Oracle: the model before."""
    conv = nn.Conv2d(3, 8, 3)
    prune.l1_unstructured(conv, "weight", 0.3)
    model = nn.Sequential(conv, BatchChannelNorm2d(8, 4)).double()
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    model(x)
    expected = model.eval()(x)
    torch.testing.assert_close(fold_ws(model, bcn=True)(x), expected, rtol=0, atol=1e-12)
    assert prune.is_pruned(conv)
