"""Tell of estimates that a training loop moves wrongly, because it is not told of them.

Each process follows its own images if nobody averages, and each pass of an accumulated step moves
them if nobody holds them back. Both show in what torch counts of a weight in place: a new version
means a step of the optimizer, a new one of its gradient alone a pass more in the same step.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn

from ws_det.errors import warn

# Steps to look at before passes are called a habit: mixed precision leaves out some of the first.
_STEPS = 20
_averaged: WeakSet[nn.Module] = WeakSet()
_told: set[str] = set()


@dataclass
class _Seen:
    """What a layer's weight was like in its last pass, and steps and passes more than steps."""

    version: int
    gradient: tuple[int, int]
    steps: int = 0
    more: int = 0


_seen: WeakKeyDictionary[nn.Module, _Seen] = WeakKeyDictionary()


def note_averaged(layer: nn.Module) -> None:
    """The estimates of a layer were averaged over the processes, and will be."""
    _averaged.add(layer)


def watch(layer: nn.Module) -> None:
    """Call in each training pass of a layer whose estimates ``StepEstimates`` does not look after.

    Warns, once of each fault and by the first process: not before the optimizer has stepped, for
    until then a loop may still average, and of several passes in a step after 20 steps.
    """
    if layer.weight is None:
        return
    weight, gradient = layer.weight, layer.weight.grad
    key = (0, 0) if gradient is None else (id(gradient), gradient._version)
    seen = _seen.setdefault(layer, _Seen(weight._version, key))
    if seen.steps > _STEPS:
        return
    if weight._version != seen.version:
        seen.steps += 1
        _judge(layer, seen)
    elif key != seen.gradient:
        seen.more += 1
    seen.version, seen.gradient = weight._version, key


def _judge(layer: nn.Module, seen: _Seen) -> None:
    """After a step."""
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if processes > 1 and layer not in _averaged:
        _tell(
            f"are not averaged over the {processes} processes, each follows its own images",
            "call ws_det.norms.average_estimates(model) after each optimizer step",
        )
    if seen.steps == _STEPS and seen.more >= _STEPS - 2:
        _tell(
            "move in each of several passes of an optimizer step, that many times as fast",
            "call ws_det.estimates.StepEstimates around each pass",
        )


def _tell(fault: str, otherwise: str) -> None:
    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    if first and fault not in _told:
        warn(
            f"the estimates of EstBN and BCN {fault}: give the loop SyncEstBNHook (in MMDetection "
            f"custom_hooks=[dict(type='SyncEstBNHook')], in Detectron2 ws_det.detectron2.hooks), "
            f"or {otherwise}"
        )
    _told.add(fault)
