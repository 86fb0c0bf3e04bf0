"""Run a forward pass again exactly as it ran."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor


class Replay:
    """The arguments and the surroundings of a call, taken just before it.

    Args:
        device: Type of the device it runs on.
        args: Of the call.
        kwargs: Of the call.
    """

    def __init__(self, device: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.device, self.args, self.kwargs = device, args, kwargs
        self._random = _random_state(device)
        self._autocast = (
            torch.is_autocast_enabled() if device == "cuda" else torch.is_autocast_cpu_enabled()
        )

    def run(self, function: Callable[..., Any]) -> Any:
        """Call it again, in eager mode; the random state afterwards is that of before."""
        # Compiled graphs know no hooks; older torch cannot be told.
        eager = getattr(torch.compiler, "set_stance", lambda _: nullcontext())("force_eager")
        random = _random_state(self.device)
        _set_random_state(self.device, self._random)
        try:
            with torch.enable_grad(), torch.autocast(self.device, enabled=self._autocast), eager:
                return function(*self.args, **self.kwargs)
        finally:
            _set_random_state(self.device, random)


def _random_state(device: str) -> list[Tensor]:
    cuda = [torch.cuda.get_rng_state()] if device == "cuda" else []
    return [torch.get_rng_state(), *cuda]


def _set_random_state(device: str, state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if device == "cuda":
        torch.cuda.set_rng_state(state[1])
