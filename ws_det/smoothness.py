"""How smooth the loss is where a training passes: probes along the gradient.

After Santurkar et al., "How Does Batch Normalization Help Optimization?" (arXiv:1805.11604), the
analysis that the WS paper builds on. From the weights w, steps of several lengths s go along the
negative gradient g: how far does the loss range on them, and how much does the gradient change?
The largest ``|g(w - s g) - g(w)| / (s |g|)`` is the effective beta smoothness, the Lipschitz
constant of the gradient as far as these steps see it; ``|g|`` is that of the loss.

A norm behind a convolution makes the loss nearly invariant to the scale of its kernel, and WS makes
it invariant to the shift too: w and a * w + b compute the same. So distances between raw weights
have no scale of their own: at a times the weights gradients are a times smaller and the curvature
is a**2 times smaller, and nothing is smoother. Every number is therefore given twice: absolute, and
relative, with each filter measured in units of its own norm, which is the same for all a.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ws_det.errors import InputError


@dataclass(frozen=True)
class Smoothness:
    """What steps of several lengths along the negative gradient find.

    Attributes:
        loss: At the weights themselves.
        lengths: Of the steps, as factors of the gradient.
        losses: After each step.
        gradient_norm: At the weights.
        distances: Of each step, the norm of the change of the weights.
        gradient_changes: Of each step, the norm of the change of the gradient.
        relative_gradient_norm: As ``gradient_norm`` with filters in units of their norms.
        relative_distances: As ``distances`` with filters in units of their norms.
        relative_gradient_changes: As ``gradient_changes`` with filters in units of their norms.
    """

    loss: float
    lengths: list[float]
    losses: list[float]
    gradient_norm: float
    distances: list[float]
    gradient_changes: list[float]
    relative_gradient_norm: float
    relative_distances: list[float]
    relative_gradient_changes: list[float]

    @property
    def loss_range(self) -> tuple[float, float]:
        """The least and the largest loss on the line, the start included."""
        return min(self.loss, *self.losses), max(self.loss, *self.losses)

    @property
    def beta(self) -> float:
        """Effective beta smoothness: the largest change of the gradient over the distance."""
        return _largest(self.gradient_changes, self.distances)

    @property
    def relative_beta(self) -> float:
        """Effective beta smoothness with filters in units of their norms."""
        return _largest(self.relative_gradient_changes, self.relative_distances)

    def numbers(self) -> dict[str, Any]:
        """All of it for JSON."""
        least, largest = self.loss_range
        betas = {"beta": self.beta, "relative_beta": self.relative_beta}
        return {**asdict(self), "loss_min": least, "loss_max": largest, **betas}


def probe_smoothness(
    model: nn.Module, loss: Callable[[], Tensor], lengths: Sequence[float]
) -> Smoothness:
    """Probe the loss along the negative gradient of the kernels and matrices.

    Vectors, as the affine pairs of norms, stay where they are. Every evaluation starts from the
    same buffers and random numbers. Weights, buffers, gradients and random state are afterwards
    what they were, to the bit.

    Args:
        model: In the mode that it is to be probed in.
        loss: Computes the loss of ``model`` on the same batch at every call.
        lengths: Of the steps: the weights move by the gradient times each, so those around the
            learning rate are the steps of a training.

    Raises:
        InputError: If a length is not above 0, no kernel is trained, or a loss is not finite.
    """
    if not lengths or not all(length > 0 for length in lengths):
        raise InputError(f"the lengths of the steps are {list(lengths)}: give some above 0")
    weights = [m.weight for m in model.modules() if _has_filters(m) and m.weight.requires_grad]
    weights = list({id(weight): weight for weight in weights}.values())  # one may be shared
    if not weights:
        raise InputError(
            f"{type(model).__name__} has no convolution or linear layer that is trained: give a "
            f"model with one"
        )
    norms = [weight.detach().flatten(1).norm(dim=1, keepdim=True) for weight in weights]
    with _restored(model, weights) as restore:
        start, gradient = _evaluate(loss, weights, 0.0)
        relative = _norm(gradient, norms)
        found = Smoothness(start, list(lengths), [], _norm(gradient), [], [], relative, [], [])
        inverse = [torch.where(norm > 0, 1 / norm, 0.0) for norm in norms]
        for length in lengths:
            restore()
            with torch.no_grad():
                for weight, g in zip(weights, gradient):
                    weight.sub_(g, alpha=length)
            value, moved = _evaluate(loss, weights, length)
            change = [after - before for after, before in zip(moved, gradient)]
            found.losses.append(value)
            found.distances.append(length * _norm(gradient))
            found.gradient_changes.append(_norm(change))
            found.relative_distances.append(length * _norm(gradient, inverse))
            found.relative_gradient_changes.append(_norm(change, norms))
    return found


def _has_filters(module: nn.Module) -> bool:
    return isinstance(module, (nn.modules.conv._ConvNd, nn.Linear))


def _evaluate(
    loss: Callable[[], Tensor], weights: list[nn.Parameter], length: float
) -> tuple[float, list[Tensor]]:
    with torch.random.fork_rng(), torch.enable_grad():
        value = loss()
        gradient = torch.autograd.grad(value, weights, materialize_grads=True)
    if not math.isfinite(value.item()):
        raise InputError(
            f"the loss is {value.item()} after a step of length {length:g}: give shorter steps, or "
            f"weights of a run that did not diverge"
        )
    return value.item(), list(gradient)


@contextmanager
def _restored(model: nn.Module, weights: list[nn.Parameter]) -> Iterator[Callable[[], None]]:
    """Gives a function that puts weights and buffers back; they are put back at the end too."""
    tensors = [*weights, *model.buffers()]
    kept = [tensor.detach().clone() for tensor in tensors]

    def restore() -> None:
        with torch.no_grad():
            for tensor, value in zip(tensors, kept):
                tensor.copy_(value)

    try:
        yield restore
    finally:
        restore()


def _norm(tensors: Sequence[Tensor], scales: Sequence[Tensor] | None = None) -> float:
    """Of all elements, each row of ``flatten(1)`` times its scale; summed in float64."""
    rows = [tensor.double().flatten(1) for tensor in tensors]
    if scales is not None:
        rows = [row * scale for row, scale in zip(rows, scales)]
    return math.sqrt(sum(row.square().sum().item() for row in rows))


def _largest(changes: Sequence[float], distances: Sequence[float]) -> float:
    """The largest ratio; 0 where the gradient is 0 and nothing moves."""
    return max(c / d if d > 0 else 0.0 for c, d in zip(changes, distances))
