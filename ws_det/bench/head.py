"""What it costs to standardize a head's kernels for each level of the pyramid, and not once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ws_det.bench.counts import saved_bytes
from ws_det.bench.rounds import Comparison, Target, check_equal
from ws_det.convert import convert_to_ws

GN, LEVEL, ONCE = "GN", "WS+GN, each level (ws_det)", "WS+GN, once a step"
STRIDES = (8, 16, 32, 64, 128)


def compare_head(size: tuple[int, int], quick: bool = False, device: str = "cpu") -> Comparison:
    """RetinaNet's two branches of four convolutions over five levels, forward and backward.

    Args:
        size: Height and width of the image.
        quick: Narrow branches instead.
        device: Where they are.

    Raises:
        RuntimeError: If the two ways of WS do not compute the same.
    """
    channels = 16 if quick else 256
    plain, ws = (_head(channels).to(device) for _ in range(2))
    convert_to_ws(ws)
    levels = [
        torch.randn(1, channels, *(-(-side // stride) for side in size), device=device)
        for stride in STRIDES
    ]
    forwards = {
        GN: lambda: [branch(level) for branch in plain for level in levels],
        LEVEL: lambda: [branch(level) for branch in ws for level in levels],
        ONCE: lambda: [out for branch in ws for out in _with_kernels_once(branch, levels)],
    }
    parameters = {GN: [*plain.parameters()], LEVEL: [*ws.parameters()], ONCE: [*ws.parameters()]}
    arms = {name: _step(call, parameters[name]) for name, call in forwards.items()}
    check_equal(ONCE, arms[ONCE](), arms[LEVEL](), rtol=1e-4)  # the levels added in another order
    kept = {name: saved_bytes(call, parameters[name]) / 1e6 for name, call in forwards.items()}
    return Comparison(
        f"RetinaNet's head, five levels of an image of {size[0]} x {size[1]}, forward + backward",
        arms,
        baseline=GN,
        targets=[Target(LEVEL, ONCE, 1.05)],
        counts={"kept, MB": kept},
        images=1,
    )


def _head(channels: int) -> nn.ModuleList:
    def branch() -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(4):
            conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            layers += [conv, nn.GroupNorm(channels // 8, channels), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    return nn.ModuleList(branch() for _ in range(2))


def _with_kernels_once(branch: nn.Sequential, levels: Sequence[Tensor]) -> list[Tensor]:
    kernels = {conv: conv.standardized_weight() for conv in branch[::3]}
    outputs = []
    for out in levels:
        for layer in branch:
            kernel = kernels.get(layer)
            out = layer(out) if kernel is None else F.conv2d(out, kernel, padding=1)
        outputs.append(out)
    return outputs


def _step(
    forward: Callable[[], list[Tensor]], parameters: Sequence[Tensor]
) -> Callable[[], Sequence[Tensor]]:
    def step() -> Sequence[Tensor]:
        outputs = forward()
        return torch.autograd.grad(sum(out.square().mean() for out in outputs), parameters)

    return step
