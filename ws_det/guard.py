"""Stop a training, or skip a step, when its loss or its gradient is NaN or infinite."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from ws_det.errors import InputError
from ws_det.nonfinite import loss_terms, search
from ws_det.replay import Replay
from ws_det.report import write_json

_ON_NAN = ("stop", "skip")
# Where skipping goes on for so long, it is not a rare image but the weights.
_IN_A_ROW = 10

_log = logging.getLogger("ws_det")


class NanGuard:
    """Watch the losses of a detector and its gradients, and find the layer only when it is late.

    A step costs one sum of the loss terms a pass, the norm of the gradient, and one number
    all-reduced, so that all ranks stop or skip together. A pass that raises FloatingPointError, as
    Detectron2's proposals do, counts as one whose loss is NaN: its rank then does not leave the
    others waiting in DDP.

    Args:
        model: The detector, not wrapped. Its ``forward`` is replaced until ``close``.
        name_images: From the arguments of ``forward`` to the names of the images.
        folder: Where reports are written, by the first rank.
        on_nan: "stop", or "skip": leave weights and statistics as they were and go on, at most
            ten times in a row, and not where a weight itself is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        name_images: Callable[..., list[str]],
        folder: str,
        on_nan: str = "stop",
    ) -> None:
        check_on_nan(on_nan)
        self.model, self.name_images, self.folder, self.on_nan = model, name_images, folder, on_nan
        self._forward = model.forward
        model.forward = self._watched
        self._skipped = 0  # in a row
        self._begin_step()

    def close(self) -> None:
        """Give the model its own ``forward`` back."""
        del self.model.forward

    def check(self, iteration: int, norm: Tensor | float | None = None) -> bool:
        """Call before the optimizer steps, on all ranks.

        Args:
            iteration: For the report.
            norm: Of the gradient, or None where it may overflow: mixed precision skips such steps
                by itself.

        Returns:
            Whether to take the step. If not, statistics are those from before it, and the
            parameters have no gradient.

        Raises:
            InputError: If training has to stop, on all ranks with the same sentence.
        """
        bad = self._bad is not None
        if norm is not None:
            bad |= not torch.as_tensor(norm).isfinite().item()
        if not self._on_any_rank(bad):
            self._skipped = 0
            self._begin_step()
            return True
        reports = _gathered(self._report())
        self._restore_buffers()
        path = Path(self.folder, f"nonfinite_iter_{iteration}.json")
        if _rank() == 0:
            write_json(path, {"iteration": iteration, "ranks": reports})
        sentence = _sentence(reports, iteration)
        self._skipped += 1
        if (
            self.on_nan == "stop"
            or any(report["parameter"] for report in reports)
            or self._skipped >= _IN_A_ROW
        ):
            raise InputError(
                f"{sentence}: see {path}, then correct the image, or lower the learning rate, "
                f"lengthen the warm-up or clip the gradient"
            )
        if _rank() == 0:
            _log.warning(f"{sentence}: the step is skipped, see {path}")
        for parameter in self.model.parameters():
            parameter.grad = None
        self._begin_step()
        return False

    @property
    def unchecked(self) -> bool:
        """Whether there were passes since the last check."""
        return self._last is not None

    def _begin_step(self) -> None:
        self._bad: Replay | None = None
        self._last: Replay | None = None
        self._images: list[str] = []
        self._buffers: list[tuple[Tensor, Tensor]] | None = None

    def _watched(self, *args: Any, **kwargs: Any) -> Any:
        """The model's ``forward``."""
        if not (self.model.training and torch.is_grad_enabled()):
            return self._forward(*args, **kwargs)
        if self._buffers is None:
            self._buffers = [(b, b.clone()) for b in self.model.buffers() if b.is_floating_point()]
        self._last = None  # its images need not outlive the next ones
        this = Replay(self._device.type, args, kwargs)
        try:
            losses = self._forward(*args, **kwargs)
        except FloatingPointError:
            # Every parameter takes part, or DDP would wait for those that do not.
            every = sum(p.sum() for p in self.model.parameters() if p.requires_grad)
            losses = {"loss_nonfinite": every * float("nan")}
        self._last = this
        self._images += self.name_images(*args, **kwargs)
        total = sum(loss_terms(losses).values(), torch.zeros(()))
        if self._bad is None and not total.isfinite().item():
            self._bad = this
        return losses

    def _report(self) -> dict[str, Any]:
        this = self._bad or self._last
        assert this is not None

        def forward(*args: Any, **kwargs: Any) -> dict[str, Any]:
            self._restore_buffers()
            return search(self.model, lambda: loss_terms(self._forward(*args, **kwargs)))

        found = this.run(forward)
        found["losses"] = {name: f"{loss:g}" for name, loss in found["losses"].items()}
        return {
            "rank": _rank(),
            "loss_is_finite": self._bad is None,
            **found,
            "images_of_the_pass": self.name_images(*this.args, **this.kwargs),
            "images_of_the_step": self._images,
        }

    def _restore_buffers(self) -> None:
        with torch.no_grad():
            for buffer, kept in self._buffers or ():
                buffer.copy_(kept)

    def _on_any_rank(self, bad: bool) -> bool:
        if not _distributed():
            return bad
        flag = torch.tensor(float(bad), device=self._device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag.item())

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def check_on_nan(value: str) -> None:
    """Refuse what is no reaction of the guard.

    Raises:
        InputError: If it is none.
    """
    if value not in _ON_NAN:
        raise InputError(f"on_nan={value!r} is unknown: choose {' or '.join(_ON_NAN)}")


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients, for where it was not computed to clip it."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    # As torch's own clipping has it: one kernel for many tensors.
    return torch.stack(torch._foreach_norm(gradients)).norm() if gradients else torch.zeros(())


def _sentence(reports: Sequence[dict[str, Any]], iteration: int) -> str:
    report = next((r for r in reports if not r["loss_is_finite"]), reports[0])
    what = "gradient" if report["loss_is_finite"] else "loss"
    parts = [f"the {what} is NaN or infinite at iteration {iteration}"]
    if report["layer"]:
        kind = f"{report['layer']} ({report['layer_type']})"
        input_is = ", whose input is not finite" * (report["input_is_finite"] is False)
        parts.append(f"first in the {report['where']} pass of {kind}{input_is}")
    if report["parameter"]:
        parts.append(f"{report['parameter']} has a value that is not finite")
    images = report["images_of_the_pass"]
    return f"{', '.join(parts)}, on {', '.join(images)}"


def _distributed() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _gathered(report: dict[str, Any]) -> list[dict[str, Any]]:
    reports = [report]
    if _distributed():
        reports *= dist.get_world_size()
        dist.all_gather_object(reports, report)
    return reports
