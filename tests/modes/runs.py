"""A forward and backward pass of a layer or of its reference, and their comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tests.modes.layers import LAYERS, State

Forward = Callable[[Tensor], Tensor]
Scene = Callable[[Forward, Tensor, Callable[[Forward], Forward]], Tensor]


class Run(NamedTuple):
    """What one run gave: tensors by name."""

    output: dict[str, Tensor]
    gradient: dict[str, Tensor]
    statistics: dict[str, Tensor]


# Where a layer is used, and where a segment of activation checkpointing begins: ``wrap`` makes one.
SCENES: dict[str, Scene] = {
    "once": lambda f, x, wrap: wrap(f)(x),
    "twice in a segment": lambda f, x, wrap: wrap(lambda y: f(f(y)))(x),
    "in two segments": lambda f, x, wrap: wrap(f)(wrap(f)(x)),
    "for equal inputs": lambda f, x, wrap: wrap(f)(x) + 2 * wrap(f)(x),
    "for equal inputs in a segment": lambda f, x, wrap: wrap(lambda y: f(y) + 2 * f(y))(x),
    "nested": lambda f, x, wrap: wrap(nn.Sequential(Call(f), Call(wrap(f))))(x),
    "inside and outside": lambda f, x, wrap: f(wrap(f)(f(x))),
}


class Call(nn.Module):
    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def unwrapped(function: Forward) -> Forward:
    return function


def loss(output: Tensor) -> Tensor:
    """A loss that treats no output like another, so that no gradient cancels out."""
    factors = torch.arange(1.0, output.numel() + 1, dtype=torch.float64).cos() - 0.3
    return (output * factors.view(output.shape).to(output.dtype)).sum()


def run(
    module: nn.Module,
    x: Tensor,
    scene: Scene = SCENES["once"],
    wrap: Callable[[Forward], Forward] = unwrapped,
) -> Run:
    """One step of ``module``."""
    x = x.clone().requires_grad_()
    output = scene(module, x, wrap)
    loss(output).backward()
    return Run({"": output.detach()}, gradients(module, x), statistics(module))


def gradients(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    return {"input": x.grad, **{name: p.grad for name, p in module.named_parameters()}}


def statistics(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def float64_state(module: nn.Module) -> State:
    """A copy of the state, whose parameters want gradients."""
    names = dict(module.named_parameters())
    return {
        name: tensor.detach().clone().double().requires_grad_(name in names)
        for name, tensor in module.state_dict().items()
    }


def reference(
    name: str, module: nn.Module, x: Tensor, scene: Scene = SCENES["once"]
) -> Run:
    """The same step by the formulas, from the state that ``module`` has now."""
    state = float64_state(module)
    names = [key for key, _ in module.named_parameters()]
    x = x.double().clone().requires_grad_()
    output = scene(lambda y: LAYERS[name].reference(state, "", y, module.training), x, unwrapped)
    leaves = [x, *[state[key] for key in names]]
    grads = torch.autograd.grad(loss(output), leaves)
    buffers = {key: state[key].detach() for key, _ in module.named_buffers()}
    return Run({"": output.detach()}, dict(zip(["input", *names], grads, strict=True)), buffers)


def compare(got: Run, expected: Run, tolerance: float = 1e-12) -> None:
    """Outputs, gradients and statistics, each set by its largest number.

    1e-12: some thousand roundings of float64.
    """
    for kind, ours, theirs in zip(Run._fields, got, expected, strict=True):
        close(kind, ours, theirs, tolerance)


def close(
    kind: str, got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12
) -> None:
    assert got.keys() == expected.keys(), kind
    largest = max((float(t.abs().max()) for t in expected.values() if t.numel()), default=0.0)
    for name, tensor in expected.items():
        assert got[name] is not None, f"no {kind} {name}"
        assert got[name].shape == tensor.shape, f"{kind} {name}"
        error = float((got[name].double() - tensor.double()).abs().max())
        assert error <= tolerance * largest, f"{kind} {name}: off by {error} of {largest}"
