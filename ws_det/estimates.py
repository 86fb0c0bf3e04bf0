"""The estimates of EstBN in a training step of several passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ws_det.intake import Intake
from ws_det.norms import EstBatchNorm2d, average_estimates


class StepEstimates:
    """Move the estimates once per optimizer step, however many forward passes it has.

    Every pass of a step starts from the estimates that the step began with, and the step ends with
    the mean over its passes and over the ranks. An update is linear in the batch statistics, so
    that mean is the update by the mean statistics: k passes of one image move the estimates as
    one pass of k images does, or as k ranks with one image each do. One after the other, they
    would move them by nearly k times the rate.

    Estimates that are not finite are given up, with those of the whole step.

    Args:
        module: Searched for EstBatchNorm2d layers that learn; the same model on every rank.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.passes = 0  # of the step so far
        self._buffers: list[Tensor] = []
        self._start = self._sum = torch.empty(0)

    def begin_pass(self) -> None:
        """Call before each forward pass; the first one of a step keeps the estimates."""
        if self.passes:
            return
        layers = [m for m in self.module.modules() if isinstance(m, EstBatchNorm2d) and m.learns()]
        for layer in layers:
            layer.keep_finite = False  # so that end_pass sees it
        self._buffers = [b for layer in layers for b in (layer.running_mean, layer.running_var)]
        if self._buffers:
            self._start = self._read()
            self._sum = torch.zeros_like(self._start)

    def end_pass(self, last: bool = True) -> None:
        """Call after each pass.

        Args:
            last: Whether the optimizer stepped. If not, the estimates are those of before again:
                what is evaluated or saved between two steps has those that go with its weights.
        """
        passes = self.passes + 1
        self.passes = 0 if last else passes
        if not self._buffers:
            return
        self._sum += self._read()
        if not last:
            self._write(self._start)
            return
        self._write(self._sum / passes)
        average_estimates(self.module)
        mean = self._read()
        self._write(torch.where(mean.isfinite().all(), mean, self._start))

    def average(self) -> None:
        """Make the sum of an unfinished step equal on all ranks, so that one copy can be saved.

        The step ends with that mean anyway.
        """
        if self.passes and self._buffers and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self._sum)
            self._sum /= torch.distributed.get_world_size()

    def state_dict(self) -> dict[str, Any]:
        """An unfinished step, to be saved beside the estimates that it began with."""
        return {"passes": self.passes, "sum": self._sum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up an unfinished step, when the module has its estimates back.

        Raises:
            InputError: If it is of other estimates.
        """
        self.passes = 0
        self.begin_pass()
        intake = Intake("the resumed checkpoint")
        state = intake.table(state, "estimates")
        passes = intake.count(state.get("passes"), "estimates.passes", least=1)
        self._sum = intake.tensor(state.get("sum"), self._start, "estimates.sum").to(self._start)
        self.passes = passes

    def _read(self) -> Tensor:
        return torch.cat(self._buffers)

    def _write(self, flat: Tensor) -> None:
        parts = flat.split([buffer.numel() for buffer in self._buffers])
        for buffer, part in zip(self._buffers, parts, strict=True):
            buffer.copy_(part)
