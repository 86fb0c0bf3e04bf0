"""Detectron2's trainer with gradient accumulation, and random numbers that a resume repeats."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ws_det.detectron2.loop import promise
from ws_det.detectron2.stream import seed_step
from ws_det.guard import NanGuard, gradient_norm


class AccumulatingTrainer(SimpleTrainer):
    """One iteration is one optimizer step: ``accumulation`` forward and backward passes.

    The gradient is the mean over the passes, and DDP reduces it once, in the last of them. Losses
    in the log are means over the passes too. ``data_loader`` is set after a checkpoint is loaded,
    which knows where the images were. A hook's ``between_passes()``, if it has one, is called
    between two passes of a step.

    Args:
        model: In DDP if there are several processes.
        optimizer: Of its parameters.
        seed: Of the run; a checkpoint brings its own.
        accumulation: Passes per step.
        max_norm: Clip the gradient's norm to this; None leaves it.
        amp: Automatic mixed precision, in float16 with a scaled loss.
        guard: Of the model; without one a loss that is not finite raises FloatingPointError.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int,
        accumulation: int = 1,
        max_norm: float | None = None,
        amp: bool = False,
        guard: NanGuard | None = None,
    ) -> None:
        super().__init__(model, None, optimizer)
        self.seed, self.accumulation, self.max_norm, self.amp = seed, accumulation, max_norm, amp
        self.guard = guard
        promise(optimizer, max_norm=max_norm, guard=guard)
        self.device = next(model.parameters()).device.type
        self.scaler = torch.amp.GradScaler(self.device, enabled=amp)

    def run_step(self) -> None:
        """Take one optimizer step."""
        assert self.model.training
        self.optimizer.zero_grad()
        sums: dict[str, torch.Tensor] = {}
        data_time = 0.0
        for number in range(self.accumulation):
            if number:
                self._between_passes()
            start = time.perf_counter()
            data = next(self._data_loader_iter)
            data_time += time.perf_counter() - start
            seed_step(self.seed, self.iter * self.accumulation + number)
            with self._unreduced(number), torch.autocast(self.device, enabled=self.amp):
                losses = self.model(data)
                if isinstance(losses, torch.Tensor):
                    losses = {"total_loss": losses}
                self.scaler.scale(sum(losses.values()) / self.accumulation).backward()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss.detach() / self.accumulation
        self.after_backward()
        if self._is_finite():
            self._write_metrics(sums, data_time)  # without a guard this raises
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def _is_finite(self) -> bool:
        """Clip the gradient, and ask the guard whether to step."""
        norm = None
        if self.max_norm is not None:
            self.scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        if self.guard is None:
            return True
        if self.amp:
            norm = None  # the scaler skips steps whose gradient overflows
        elif norm is None:
            norm = gradient_norm(self.model.parameters())
        finite = self.guard.check(self.iter, norm)
        if self.amp and not finite and self.max_norm is not None:
            self.scaler.update()  # forget what was unscaled
        return finite

    def state_dict(self) -> dict[str, Any]:
        """Detectron2's own, the seed and the loss scale."""
        return super().state_dict() | {"seed": self.seed, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up all of it; a checkpoint of Detectron2's own trainers has a part."""
        super().load_state_dict(state_dict)
        self.seed = state_dict.get("seed", self.seed)
        if state_dict.get("scaler"):
            self.scaler.load_state_dict(state_dict["scaler"])

    def _between_passes(self) -> None:
        for hook in self._hooks:
            if hasattr(hook, "between_passes"):
                hook.between_passes()

    def _unreduced(self, number: int) -> AbstractContextManager:
        if number == self.accumulation - 1 or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()
