"""Tell of estimates that every process follows by itself, because nobody averages them."""

from __future__ import annotations

from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn

from ws_det.compiling import is_compiling
from ws_det.errors import warn

# How often the optimizer had changed a layer's weight when a pass first moved its estimates.
_seen: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_averaged: WeakSet[nn.Module] = WeakSet()
_told: list[str] = []


def note_averaged(layer: nn.Module) -> None:
    """The estimates of a layer were averaged over the processes, and will be."""
    _averaged.add(layer)


def watch(layer: nn.Module) -> None:
    """Call in a training pass: warns, once, if the optimizer has stepped and nobody averaged.

    Torch counts the changes of a weight in place. As long as they stay the passes belong to one
    step, and a loop may still average at its end.
    """
    if _told or is_compiling() or layer in _averaged or layer.weight is None:
        return
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return
    version = layer.weight._version
    if _seen.setdefault(layer, version) == version:
        return
    _told.append("said")
    if torch.distributed.get_rank() == 0:
        warn(
            f"the estimates of EstBN and BCN are not averaged over the "
            f"{torch.distributed.get_world_size()} processes, each follows its own images: give "
            f"the loop SyncEstBNHook (in MMDetection custom_hooks=[dict(type='SyncEstBNHook')], in "
            f"Detectron2 ws_det.detectron2.hooks), or call ws_det.norms.average_estimates(model) "
            f"after each optimizer step"
        )
