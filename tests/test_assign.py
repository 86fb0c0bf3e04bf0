"""A weight that a user assigns stays raw; one that a batch norm was fused into does not.

Oracle: the formula by hand, of the weight as it was assigned (tests/dropin.py), in float64.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, remove_weight_norm, weight_norm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from tests.dropin import by_hand
from ws_det import InputError, WSConv1d, WSConv2d, WSConv3d, WSConvTranspose2d, fold_ws

CLASSES = {
    WSConv1d: (nn.BatchNorm1d, (4, 7)),
    WSConv2d: (nn.BatchNorm2d, (4, 6, 5)),
    WSConv3d: (nn.BatchNorm3d, (4, 4, 4, 4)),
    WSConvTranspose2d: (nn.BatchNorm2d, (4, 4, 4)),
}


def per_filter(weight: Tensor, values: Tensor, transposed: bool) -> Tensor:
    shape = [1] * weight.ndim
    shape[1 if transposed else 0] = -1
    return weight * values.view(shape)


def spectral(weight: Tensor) -> Tensor:
    return weight / torch.linalg.matrix_norm(weight.flatten(1), 2)


def kaiming(weight: Tensor) -> Tensor:
    return nn.init.kaiming_normal_(torch.empty_like(weight))


def permuted(weight: Tensor) -> Tensor:
    return weight[torch.randperm(len(weight))]


# What people make of a weight: (old weight, a random number for each channel, transposed) -> new.
NEW: dict[str, Callable[[Tensor, Tensor, bool], Tensor]] = {
    "zeros": lambda w, c, t: torch.zeros_like(w),
    "constant": lambda w, c, t: torch.full_like(w, 0.3),
    "times 0.1": lambda w, c, t: w * 0.1,
    "times -1": lambda w, c, t: -w,
    "times 1.01": lambda w, c, t: w * 1.01,
    "filters rescaled": lambda w, c, t: per_filter(w, c, t),
    "filters pruned": lambda w, c, t: per_filter(w, (c > 0).to(w), t),
    "filters normalized": lambda w, c, t: nn.functional.normalize(w.flatten(1)).view_as(w),
    "spectral norm": lambda w, c, t: spectral(w),
    "a copy": lambda w, c, t: w.clone(),
    "decayed": lambda w, c, t: w * (1 - 1e-5),
    "permuted": lambda w, c, t: permuted(w),
    "kaiming": lambda w, c, t: kaiming(w),
    "orthogonal": lambda w, c, t: nn.init.orthogonal_(torch.empty_like(w)),
    "plus noise": lambda w, c, t: w + 1e-3 * torch.randn_like(w),
    "float32": lambda w, c, t: w.float(),
    "bfloat16": lambda w, c, t: w.bfloat16(),
    "float16, halved": lambda w, c, t: (w / 2).half(),
    "another memory": lambda w, c, t: w.transpose(0, 1).contiguous().transpose(0, 1),
}


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("ws_class", CLASSES)
def test_an_assigned_weight_stays_raw(ws_class: type[nn.Module], kind: str) -> None:
    """With batch norms in reach, new and trained, in both modes, before or after a new bias."""
    norm_class, size = CLASSES[ws_class]
    chance = random.Random(f"{ws_class} {kind}")
    for training in (True, False):
        conv = ws_class(4, 6, 3, formula=chance.choice(["ws", "bit"])).double().train(training)
        norm = norm_class(6).double().train(training)
        if chance.random() < 0.5:
            nn.init.uniform_(norm.weight, -2, 2)
            nn.init.uniform_(norm.running_var, 0.5, 3)
        block = nn.Sequential(conv, norm)
        factors = torch.randn(6, dtype=torch.float64)
        with torch.no_grad():
            new = nn.Parameter(NEW[kind](conv.weight, factors, conv.transposed))
        if chance.random() < 0.5:
            conv.bias = nn.Parameter(torch.zeros_like(conv.bias))
        block[0].weight = new
        conv.bias = nn.Parameter(torch.ones(6, dtype=new.dtype))
        assert type(conv) is ws_class and conv.weight is new
        x = torch.randn(2, *size).to(new.dtype)
        plain = ws_class.__bases__[-1](4, 6, 3).double()
        weights = {"weight": by_hand(new.double(), conv), "bias": conv.bias.double()}
        expected = torch.func.functional_call(plain, weights, (x.double(),))
        # A rounding of the type to each of some hundred products; constants divide by epsilon.
        bound = 20 * torch.finfo(new.dtype).eps * expected.abs().max()
        assert (conv(x).double() - expected).abs().max() <= bound.clamp_min(1e-9)


def test_a_subclass_may_rescale_its_weight() -> None:
    class Small(WSConv2d):
        def __init__(self, *args: int) -> None:
            super().__init__(*args)
            self.norm = nn.BatchNorm2d(self.out_channels)
            self.weight = nn.Parameter(self.weight * 0.1)
            self.bias = nn.Parameter(torch.zeros_like(self.bias))

    conv, x = Small(4, 8, 3).double(), torch.randn(1, 4, 5, 5, dtype=torch.float64)
    expected = torch.nn.functional.conv2d(x, by_hand(conv.weight, conv), conv.bias)
    torch.testing.assert_close(conv(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_types_without_a_std(dtype: torch.dtype) -> None:
    """They can be assigned, as in torch; used, one sentence."""
    conv, norm = WSConv2d(4, 8, 3), nn.BatchNorm2d(8)
    conv.weight = nn.Parameter(torch.ones(8, 4, 3, 3, dtype=dtype), requires_grad=False)
    assert type(conv) is WSConv2d and norm.training
    with pytest.raises(InputError, match=f"type {dtype}, which has no standard deviation: give it"):
        conv(torch.ones(1, 4, 5, 5, dtype=dtype))


class Block(nn.Module):
    """A block with a fuser of its own, of which there are many."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        conv = WSConvTranspose2d(6, 6, 3, groups=2) if transposed else WSConv2d(6, 6, 3, bias=False)
        self.parts = nn.ModuleDict({"conv": conv, "norm": nn.BatchNorm2d(6)})
        for tensor in (self.parts.norm.weight, self.parts.norm.running_mean):
            nn.init.uniform_(tensor, -2, 2)
        nn.init.uniform_(self.parts.norm.running_var, 0.5, 3)

    def forward(self, input: Tensor) -> Tensor:
        for part in self.parts.values():
            input = part(input)
        return input

    def fused(self) -> tuple[Tensor, Tensor]:
        conv, norm = self.parts["conv"], self.parts["norm"]
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        bias = 0 if conv.bias is None else conv.bias
        weight = conv.weight
        if conv.transposed:
            parts = zip(weight.chunk(conv.groups), factor.chunk(conv.groups))
            weight = torch.cat([per_filter(part, by, True) for part, by in parts])
        else:
            weight = per_filter(weight, factor, False)
        return weight, norm.bias + (bias - norm.running_mean) * factor


def by_a_method(block: Block) -> None:
    weight, bias = block.fused()
    block.parts["conv"].weight = nn.Parameter(weight)
    block.parts["conv"].bias = nn.Parameter(bias)
    block.parts["norm"] = nn.Identity()


def by_a_setter(block: Block) -> None:
    def put(conv: nn.Module, name: str, value: Tensor) -> None:
        setattr(conv, name, nn.Parameter(value))

    values = block.fused()
    for name, value in zip(("bias", "weight"), reversed(values)):
        put(block.parts["conv"], name, value)
    block.parts["norm"] = nn.Identity()


def by_torch(block: Block) -> None:
    conv, bn = block.parts["conv"], block.parts["norm"]
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    block.parts["norm"] = nn.Identity()


@pytest.mark.parametrize(
    ("fuser", "transposed"),
    [(by_a_method, False), (by_a_method, True), (by_a_setter, False), (by_a_setter, True),
     (by_torch, False)],
)  # fmt: skip
@pytest.mark.parametrize("training", [False, True])
def test_other_fusers(fuser: Callable[[Block], None], transposed: bool, training: bool) -> None:
    """Copies of the frameworks' functions, which nobody can list. Oracle: the block before.

    Some fuse before they call eval().
    """
    block = Block(transposed).double().eval()
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    expected = block(x)
    fuser(block.train(training))
    block.eval()
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-11)
    assert type(block.parts["conv"]) in (nn.Conv2d, nn.ConvTranspose2d)


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2 + 0.1


COMPUTED: dict[str, tuple[Callable, Callable]] = {
    "pruned": (
        lambda conv: prune.l1_unstructured(conv, "weight", 0.3),
        lambda conv: prune.remove(conv, "weight"),
    ),
    "filters pruned": (
        lambda conv: prune.ln_structured(conv, "weight", 0.3, 2, 0),
        lambda conv: prune.remove(conv, "weight"),
    ),
    "weight norm, old": (weight_norm, remove_weight_norm),
    "spectral norm, old": (
        lambda conv: torch.nn.utils.spectral_norm(conv).eval(),
        torch.nn.utils.remove_spectral_norm,
    ),
    "weight norm": (
        parametrizations.weight_norm,
        lambda conv: parametrize.remove_parametrizations(conv, "weight"),
    ),
    "spectral norm": (
        lambda conv: parametrizations.spectral_norm(conv).eval(),
        lambda conv: parametrize.remove_parametrizations(conv, "weight"),
    ),
    "parametrized": (
        lambda conv: parametrize.register_parametrization(conv, "weight", Halved()),
        lambda conv: parametrize.remove_parametrizations(conv, "weight"),
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", COMPUTED)
def test_computed_weights(kind: str) -> None:
    """They are standardized as they are computed, and folded when they are permanent."""
    compute, make_permanent = COMPUTED[kind]
    conv = WSConv2d(4, 8, 3).double()
    compute(conv)
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)

    def expected() -> Tensor:
        kernel = by_hand(conv.weight, conv)
        return torch.nn.functional.conv2d(x, kernel, conv.bias)

    got = conv(x)
    torch.testing.assert_close(got, expected(), rtol=1e-9, atol=1e-9)
    got.square().sum().backward()
    assert all(p.grad is not None for p in conv.parameters())
    with pytest.raises(InputError, match="cannot be folded, its weight is computed from other"):
        fold_ws(conv)
    make_permanent(conv)
    want = expected().detach()
    torch.testing.assert_close(fold_ws(conv.eval())(x), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("assign", [False, True])
def test_loaded_weights_are_raw(assign: bool) -> None:
    """Those of a step that only decayed are a multiple of what is there; a batch norm is near."""
    model = nn.Sequential(WSConv2d(4, 8, 3), nn.BatchNorm2d(8))
    state = {key: value * 0.99 for key, value in model.state_dict().items()}
    model.load_state_dict(state, assign=assign)
    assert type(model[0]) is WSConv2d and torch.equal(model[0].weight, state["0.weight"])
