"""The peers compute what ws_det does, or their times would say nothing.

Oracle: ws_det, which its own tests hold against independent formulas; and a wrong peer is found.
"""

from __future__ import annotations

import builtins
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ws_det import BatchChannelNorm2d, standardize_weight
from ws_det.bench.peers import (
    AuthorsBCN,
    Peer,
    formula_peers,
    timm_peer,
    without_convolution,
)
from ws_det.bench.ws import compare_ws

PEERS = {peer.name: peer for peer in formula_peers()}


def value_and_gradient(function, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    weight = weight.clone().requires_grad_()
    out = function(weight)
    generator = torch.Generator().manual_seed(1)
    out.backward(torch.randn(out.shape, generator=generator, dtype=out.dtype))
    return out.detach(), weight.grad


def assert_computes_its_formula(peer: Peer) -> None:
    weight = torch.randn(6, 4, 3, 3, dtype=torch.float64) * 0.05 + 0.02
    found = value_and_gradient(peer.standardize, weight)
    expected = value_and_gradient(lambda w: standardize_weight(w, formula=peer.formula), weight)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", PEERS)
def test_formulas_compute_ours(name: str) -> None:
    assert_computes_its_formula(PEERS[name])


def test_timm_itself_computes_ours() -> None:
    peer = timm_peer()
    if peer is None:
        pytest.skip("timm cannot be imported here")
    assert peer.name == "timm StdConv2d"
    assert_computes_its_formula(peer)


@pytest.mark.parametrize("error", [ModuleNotFoundError, RuntimeError])
def test_timm_may_be_missing(error: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """RuntimeError is what torchvision raises beside another torch, and timm imports it."""
    real = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("timm"):
            raise error(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert timm_peer() is None


def scaled_convolution(input: torch.Tensor, weight: torch.Tensor, gain: float = 2.0):
    return F.conv2d(input, F.relu(weight) * gain, None, 1)


def test_a_function_without_its_convolution_hands_back_the_kernel() -> None:
    weight = torch.randn(2, 3, 1, 1)
    kernel = without_convolution(scaled_convolution)(weight, weight)
    assert torch.equal(kernel, weight.relu() * 2)
    image = torch.randn(1, 3, 4, 4)  # the original still convolves
    assert scaled_convolution(image, weight).shape == (1, 2, 4, 4)


@pytest.mark.parametrize("estimate", [True, False])
def test_the_authors_bcn_is_ours(estimate: bool) -> None:
    """Three steps, as the estimates move; then evaluation. Float64."""
    theirs = AuthorsBCN(8, 4, estimate).double()
    for parameter in theirs.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    ours = BatchChannelNorm2d(8, 4, estimate=estimate).double()
    ours.load_state_dict(theirs.state_dict())
    for step in range(4):
        if step == 3:
            ours.eval(), theirs.eval()
        x = 2 * torch.randn(2, 8, 5, 5, dtype=torch.float64) + step
        results = []
        for norm in (ours, theirs):
            norm.zero_grad()
            out, grad = value_and_gradient(norm, x)
            parameters = {name: p.grad.clone() for name, p in norm.named_parameters()}
            results.append([out, grad, parameters, copy.deepcopy(norm.state_dict())])
        for state in (result[3] for result in results):
            state.pop("bn.num_batches_tracked")  # the authors count nothing
        torch.testing.assert_close(*results)


def test_a_wrong_peer_is_found() -> None:
    """The biased deviation in the place of the unbiased one."""
    wrong = Peer("wrong", PEERS["timm StdConv2d (formula)"].standardize, "ws")
    with pytest.raises(RuntimeError, match="wrong does not compute what ws_det does"):
        compare_ws([wrong, PEERS["timm StdConv2d (formula)"]], quick=True)
