"""WS convolutions written out with torch's own layers alone: the oracle of tests/test_dropin.py.

Nothing here is from ws_det but the names of the formulas, as keys.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

import ws_det

# (unbiased, epsilon inside the root, epsilon), from the sources of each formula.
SOURCES = {
    "ws": (True, False, 1e-5),
    "bcn": (True, True, 1e-5),
    "paper": (False, False, 1e-5),
    "bit": (False, True, 1e-10),
    "timm": (False, True, 1e-6),
}


class Layer(NamedTuple):
    """A WS convolution beside torch's own with the same raw weight, and an input's shape."""

    ours: nn.Module
    plain: nn.Module
    shape: tuple[int, ...]

    def input(self, batch: int = 3) -> Tensor:
        return torch.randn(batch, *self.shape, dtype=torch.float64)

    def params(self) -> dict[str, Tensor]:
        """Copies that require grad, for both."""
        return {
            name: p.detach().clone().requires_grad_() for name, p in self.plain.named_parameters()
        }

    def call(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self.ours, params, (x,))

    def oracle(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        kernel = by_hand(params["weight"], self.ours)
        return functional_call(self.plain, {**params, "weight": kernel}, (x,))


class ByHand(nn.Conv2d):
    """WSConv2d with the default formula, as anybody would write it."""

    def forward(self, input: Tensor) -> Tensor:
        w = self.weight
        centered = w - w.mean((1, 2, 3), keepdim=True)
        std = (centered.square().sum((1, 2, 3), keepdim=True) / (w[0].numel() - 1)).sqrt()
        return self._conv_forward(input, centered / (std + 1e-5), self.bias)


def by_hand(weight: Tensor, conv: nn.Module) -> Tensor:
    """The standardized kernel, filter by filter of a transposed one too."""
    unbiased, inside, eps = SOURCES[conv.formula]
    groups = conv.groups if conv.transposed else 1
    parts = weight.chunk(groups) if conv.transposed else (weight,)
    axis = 1 if conv.transposed else 0
    over = [i for i in range(weight.ndim) if i != axis]
    done = []
    for part in parts:
        count = part.numel() // part.shape[axis]
        centered = part - part.mean(over, keepdim=True)
        var = centered.square().sum(over, keepdim=True) / (count - unbiased)
        divisor = (var + eps).sqrt() if inside else var.sqrt() + eps
        part = centered if conv.center else part
        done.append(part / divisor if conv.scale else part)
    kernel = torch.cat(done)
    return kernel * conv.weight_gamma + conv.weight_beta if conv.adaptive else kernel


def layer(name: str) -> Layer:
    """A layer of LAYERS in float64."""
    dims, options, ws_options, shape = LAYERS[name]
    ours = getattr(ws_det, f"WSConv{dims}")(4, 6, **options, **ws_options).double()
    plain = getattr(nn, f"Conv{dims}")(4, 6, **options).double()
    if name == "channels_last":
        ours = ours.to(memory_format=torch.channels_last)
        plain = plain.to(memory_format=torch.channels_last)
    if ours.adaptive:
        nn.init.uniform_(ours.weight_gamma, 0.5, 1.5)
        nn.init.uniform_(ours.weight_beta, -0.5, 0.5)
    plain.load_state_dict(ours.state_dict(), strict=False)
    return Layer(ours, plain, shape)


LAYERS = {
    "1d": ("1d", dict(kernel_size=3), {}, (4, 6)),
    "2d": ("2d", dict(kernel_size=3, padding=1), {}, (4, 5, 4)),
    "no bias": ("2d", dict(kernel_size=1, bias=False), {}, (4, 3, 3)),
    "grouped": ("2d", dict(kernel_size=3, groups=2), {}, (4, 4, 4)),
    "reflected": ("2d", dict(kernel_size=3, padding=1, padding_mode="reflect"), {}, (4, 4, 4)),
    "channels_last": ("2d", dict(kernel_size=3), {}, (4, 4, 4)),
    "3d": ("3d", dict(kernel_size=2), {}, (4, 3, 3, 3)),
    "transposed": ("Transpose2d", dict(kernel_size=2, stride=2), {}, (4, 3, 3)),
    "transposed in groups": ("Transpose2d", dict(kernel_size=2, groups=2), {}, (4, 3, 3)),
    "adaptive": ("2d", dict(kernel_size=2), dict(adaptive=True, formula="bcn"), (4, 3, 3)),
    "scale alone": ("2d", dict(kernel_size=2), dict(center=False), (4, 3, 3)),
    "mean alone": ("2d", dict(kernel_size=2), dict(scale=False), (4, 3, 3)),
    **{f: ("2d", dict(kernel_size=2), dict(formula=f), (4, 3, 3)) for f in SOURCES if f != "ws"},
}
