"""The layers that tests/test_modes.py takes through every mode, each with its own reference.

A reference is DESIGN's formula in plain torch operations and float64, with plain autograd; it
shares no code with ws_det.

Shape shorthand in this file:
    N: images, C: channels, G: groups, H W: feature cells
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ws_det import BatchChannelNorm2d, EstBatchNorm2d, WSConv2d, WSConvTranspose2d

C, G, EPS, MOMENTUM = 4, 2, 1e-5, 0.1
State = dict[str, Tensor]  # a state dict, whose buffers a reference replaces


def standardized(weight: Tensor, cells: tuple[int, ...]) -> Tensor:
    std = weight.std(cells, unbiased=True, keepdim=True)
    return (weight - weight.mean(cells, keepdim=True)) / (std + EPS)


def conv(s: State, p: str, x: Tensor, training: bool) -> Tensor:
    return F.conv2d(x, standardized(s[p + "weight"], (1, 2, 3)), s[p + "bias"], padding=1)


def conv_transpose(s: State, p: str, x: Tensor, training: bool) -> Tensor:
    kernel = standardized(s[p + "weight"], (0, 2, 3))
    return F.conv_transpose2d(x, kernel, s[p + "bias"], padding=1)


def move(s: State, p: str, mean: Tensor, var: Tensor) -> None:
    for name, value in (("running_mean", mean), ("running_var", var)):
        s[p + name] = s[p + name] + MOMENTUM * (value.detach() - s[p + name])
    s[p + "num_batches_tracked"] = s[p + "num_batches_tracked"] + 1


def affine(s: State, p: str, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    mean, var, weight, bias = (
        t.view(-1, 1, 1) for t in (mean, var, s[p + "weight"], s[p + "bias"])
    )
    return (x - mean) / (var + EPS).sqrt() * weight + bias


def est_bn(s: State, p: str, x: Tensor, training: bool) -> Tensor:
    if training:
        old = s[p + "running_mean"].view(-1, 1, 1)
        move(s, p, x.mean((0, 2, 3)), (x - old).square().mean((0, 2, 3)))
    return affine(s, p, x, s[p + "running_mean"], s[p + "running_var"])


def batch_norm(s: State, p: str, x: Tensor, training: bool) -> Tensor:
    if not training:
        return affine(s, p, x, s[p + "running_mean"], s[p + "running_var"])
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    count = x.numel() // C
    move(s, p, mean, var * count / (count - 1))
    return affine(s, p, x, mean, var)


def bcn(inner: Callable) -> Callable:
    def both(s: State, p: str, x: Tensor, training: bool) -> Tensor:
        y = inner(s, p + "bn.", x, training).unflatten(1, (G, -1))
        mean, var = y.mean((2, 3, 4), keepdim=True), y.var((2, 3, 4), unbiased=False, keepdim=True)
        weight, bias = (s[p + name].view(G, 1, 1, 1) for name in ("weight", "bias"))
        return ((y - mean) / (var + EPS).sqrt() * weight + bias).flatten(1, 2)

    return both


def net(s: State, p: str, x: Tensor, training: bool) -> Tensor:
    for i in (0, 3):
        x = conv(s, f"{p}{i}.", x, training)
        x = bcn(est_bn)(s, f"{p}{i + 1}.", x, training).relu()
    return x


def make_net() -> nn.Module:
    layers = [make() for _ in range(2) for make in (make_conv, make_estimates, nn.ReLU)]
    return nn.Sequential(*layers)


def make_conv() -> nn.Module:
    return WSConv2d(C, C, 3, padding=1)


def make_estimates() -> nn.Module:
    return BatchChannelNorm2d(C, G, estimate=True)


class Layer(NamedTuple):
    """A column of the table.

    Attributes:
        make: Makes one, in float32.
        reference: Takes a state, a prefix of its keys, the input and whether it trains; (N, C, H,
            W) -> the same shape.
    """

    make: Callable[[], nn.Module]
    reference: Callable[[State, str, Tensor, bool], Tensor]


LAYERS = {
    "WSConv2d": Layer(make_conv, conv),
    "WSConvTranspose2d": Layer(lambda: WSConvTranspose2d(C, C, 3, padding=1), conv_transpose),
    "EstBN": Layer(lambda: EstBatchNorm2d(C), est_bn),
    "BCN": Layer(lambda: BatchChannelNorm2d(C, G), bcn(batch_norm)),
    "BCN with estimates": Layer(make_estimates, bcn(est_bn)),
    "net": Layer(make_net, net),
}


def build(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The layer in training mode, with parameters and statistics that are no round numbers."""
    module = LAYERS[name].make()
    generator = torch.Generator().manual_seed(1)
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            positive = key.endswith("running_var")
            tensor.uniform_(0.5 if positive else -1, 2, generator=generator)
    return module.to(dtype)


def images(count: int = 2, size: int = 5, seed: int = 2) -> Tensor:
    """(N, C, H, W) in float64, off centre, so that statistics move a good way."""
    generator = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(count, C, size, size, generator=generator, dtype=torch.float64)
