"""Statistics of the channels that enter each nonlinearity: which are eliminated, or nearly.

A channel that a ReLU sets to zero for every image computes nothing and learns nothing: training
came close to an elimination singularity (arXiv:1911.09738, section 3). There the normalized mean of
a channel, its mean over its deviation, is far below zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ws_det.activations import Activations
from ws_det.errors import InputError

#: A channel is nearly dead if a smaller share of its cells is positive.
NEARLY_DEAD = 0.01


@dataclass(frozen=True)
class ChannelStatistics:
    """Of the C channels of one layer, over images and cells, in float64 on the CPU.

    Attributes:
        mean: Of what enters the nonlinearity, (C,).
        std: Its standard deviation, (C,).
        active: Share of the cells where it is above 0, (C,).
    """

    mean: Tensor
    std: Tensor
    active: Tensor

    @property
    def normalized_mean(self) -> Tensor:
        """Mean over deviation, (C,); infinite, or 0 for the mean 0, if a channel is constant."""
        return torch.where(self.mean == 0, 0.0, self.mean / self.std)

    @property
    def nearly_dead(self) -> Tensor:
        """Which channels are above 0 in less than ``NEARLY_DEAD`` of the cells, (C,)."""
        return self.active < NEARLY_DEAD


class Channel(NamedTuple):
    """One channel of a layer.

    Attributes:
        layer: Name of the norm.
        channel: Its index.
        active: Share of the cells where it is above 0.
        normalized_mean: Mean over deviation.
    """

    layer: str
    channel: int
    active: float
    normalized_mean: float


def channel_statistics(
    model: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], object] | None = None,
) -> dict[str, ChannelStatistics]:
    """Measure what enters the nonlinearities behind the norms of a model, in evaluation.

    A layer has the name of its norm: batch, group and instance norms, EstBN and BCN. What is
    measured is the input of the nonlinearity: behind the last norm of a residual block, the sum
    with the shortcut. A nonlinearity counts if it comes after a norm with nothing between that
    mixes channels, and a sum belongs to its first summand that has a norm; so a norm in a shortcut
    has no line of its own, nor has one that no nonlinearity follows. It may be a module or a
    function, in place or not. A norm that serves several times, as in a head over several levels,
    is one layer.

    Args:
        model: Any; one in DDP is taken out of it. Its buffers stay as they are, and modules are
            in training mode afterwards that were before.
        batches: What the model is run on.
        forward: Runs the model on a batch; by default ``model(batch)``.

    Returns:
        Statistics by name of the layer, in the order of use. Layers that got nothing, as the heads
        without a proposal, are missing.

    Raises:
        InputError: If the model has no norm, no nonlinearity behind one was used, or what enters
            one is NaN or infinite.
    """
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        model = model.module
    sums: dict[str, _Sums] = {}

    def measure(norm: str, input: Tensor) -> None:
        if input.ndim < 2 or not input.numel():
            return  # a head without a proposal
        if not sums.setdefault(norm, _Sums()).add(input):
            raise InputError(
                f"what enters the nonlinearity behind {norm} is NaN or infinite: give weights of a "
                f"run that did not diverge"
            )

    activations = Activations(model, measure)
    if not activations.norms:
        raise InputError(
            f"{type(model).__name__} has no batch, group or instance norm, so there is no layer to "
            f"measure: give a model with norms"
        )
    with _in_eval(model), torch.no_grad():
        for batch in batches:
            with activations:
                model(batch) if forward is None else forward(model, batch)
    if not sums:
        raise InputError(
            f"nothing entered a nonlinearity behind the {len(activations.norms)} norms of "
            f"{type(model).__name__}: give images that reach one"
        )
    return {name: own.statistics() for name, own in sums.items()}


def worst_channels(statistics: Mapping[str, ChannelStatistics], count: int = 10) -> list[Channel]:
    """The channels that are active least; among equals, those with the lowest normalized mean."""
    channels = [
        Channel(layer, index, active, normalized)
        for layer, own in statistics.items()
        for index, (active, normalized) in enumerate(
            zip(own.active.tolist(), own.normalized_mean.tolist(), strict=True)
        )
    ]
    return sorted(channels, key=lambda c: (c.active, c.normalized_mean))[:count]


def share_nearly_dead(statistics: Mapping[str, ChannelStatistics]) -> float:
    """Share of the channels of all layers that are nearly dead."""
    return torch.cat([own.nearly_dead for own in statistics.values()]).double().mean().item()


@dataclass
class _Sums:
    """Count, mean, summed squared deviations and active cells, merged batch by batch.

    Sums of squares would lose the deviation of a channel that is far from 0.
    """

    count: int = 0
    mean: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    active: Tensor | float = 0.0

    def add(self, input: Tensor) -> bool:
        """Add (N, C, ...); whether all of it is finite."""
        values = input.detach().transpose(0, 1).flatten(1)
        count = values.shape[1]
        var, mean = (v.cpu() for v in torch.var_mean(values.double(), 1, correction=0))
        total = self.count + count
        away = mean - self.mean
        self.squares = self.squares + var * count + away**2 * (self.count * count / total)
        self.mean = self.mean + away * (count / total)
        self.active = self.active + (values > 0).sum(1, dtype=torch.int32).cpu().double()
        self.count = total
        return bool(mean.isfinite().all())

    def statistics(self) -> ChannelStatistics:
        return ChannelStatistics(
            self.mean, (self.squares / self.count).sqrt(), self.active / self.count
        )


@contextmanager
def _in_eval(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; then each module's own again, which its ``train`` might not give back."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training
