"""Statistics for a forward pass that activation checkpointing runs again inside backward.

A layer that moves statistics in a forward pass, and normalizes by the moved ones, is no function of
its input: run again, it has another output, and moves them twice. So a pass that may be run again
leaves a record of the statistics that it began with, and the pass in backward begins with them too.

Which record is its own it knows by its input, whose mean per channel the record holds: segments
are run again in another order than they first ran in, and a layer may be in several.

Shape shorthand in this file:
    N: images, C: channels
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from weakref import ref

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ws_det.compiling import is_compiling, opaque
from ws_det.errors import InputError

# Passes of one layer that may wait for their backward. A head over 5 levels with 12 images waiting.
KEPT = 64
# A pass run again sums in the same order. Where it does not (another kernel, an input computed
# backwards, as reversible networks do), its mean is off by some units of rounding, of which this is
# far more, while another input's mean differs by some standard errors.
_TOLERANCE = 1e-4

_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


class _Record:
    """Of one pass: what it began with, and by which it is known."""

    def __init__(self, mean: Tensor, statistics: tuple[Tensor, ...]) -> None:
        self.mean = mean
        self.statistics = tuple(s.clone() for s in statistics)
        self.segment = _segment()
        self.number = torch.autograd._get_sequence_nr()  # of the next node in autograd's graph
        self.backward = -1  # the number of the backward that last ran this pass again


# By the buffer that moves, not by its layer: the functional form has no layer. Weak, so that a
# model that is deleted or moved to another device takes its records along.
_records: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def is_repeated() -> bool:
    """Whether a forward pass runs inside backward: then it has run before."""
    return torch._C._current_graph_task_id() != -1


def first_time(like: Tensor) -> Tensor | int:
    """1 for a pass that runs for the first time, 0 for one that is repeated.

    A compiled graph runs for both, so it asks whenever it runs, and gets a tensor.

    Args:
        like: On whose device.
    """
    return _first_time(like) if is_compiling() else int(not is_repeated())


def begin(mean: Tensor, var: Tensor, *statistics: Tensor) -> tuple[Tensor, ...]:
    """The statistics that a pass begins with: as they are now, or of a repeated pass as they were.

    A record is kept where a pass may be repeated: where autograd keeps nothing (reentrant
    checkpointing, and compiled graphs) or gives what it keeps to somebody (the other form).
    Elsewhere this costs nothing.

    Args:
        mean: (N, C), of the input.
        var: (N, C), of the input.
        statistics: Buffers of the layer, which move.

    Raises:
        InputError: If a pass runs in backward whose input none of the kept passes had.
    """
    buffer = statistics[0]
    if is_repeated():
        return _recall(mean.mean(0), var.mean(0).sqrt(), _records.get(buffer, ())).statistics
    if not torch.is_grad_enabled() or _hooks is None or _hooks(True):
        records = _records.setdefault(buffer, deque(maxlen=KEPT))
        records.append(_Record(mean.mean(0), statistics))
    return statistics


def _recall(mean: Tensor, spread: Tensor, records: Sequence[_Record]) -> _Record:
    distances = [_distance(record.mean, mean, spread) for record in records]
    distances = torch.stack(distances).tolist() if distances else []
    nearest = min(distances, default=float("inf"))
    if not nearest <= _TOLERANCE:
        raise InputError(
            f"a norm in training mode ran inside a backward pass, as activation checkpointing "
            f"makes it, on an input that none of its last {len(records)} passes had: let at most "
            f"{KEPT} passes wait for their backward, or call eval() on the norm before a pass "
            f"that repeats none"
        )
    own = _own([r for r, d in zip(records, distances) if d == nearest])
    own.backward = torch._C._current_graph_task_id()
    return own


def _distance(a: Tensor, b: Tensor, spread: Tensor) -> Tensor:
    """The largest difference in any channel; a NaN is equal to a NaN, which moves nothing."""
    scale = spread + torch.finfo(a.dtype).eps * b.abs() / _TOLERANCE
    difference = (a - b).abs() / scale.clamp_min(torch.finfo(a.dtype).tiny)
    return difference.masked_fill((a == b) | ~(a.isfinite() | b.isfinite()), 0).amax()


def _own(equal: list[_Record]) -> _Record:
    """Of passes with equal inputs the one that is run again.

    Segments are found by the numbers of autograd's nodes. Reentrant: a segment's node was made
    before the segment ran. Otherwise the node that asks for a tensor was made in the segment, after
    the pass. Inside a segment passes run again in their order.
    """
    now = torch._C._current_graph_task_id()
    if any(map(_differ, equal, equal[1:])):
        number = torch._C._current_autograd_node()._sequence_nr()
        if equal[0].segment is None:
            equal = [r for r in equal if r.number > number] or equal
        elif _hooks is None:
            raise InputError(
                "activation checkpointing repeats a pass of which several had this input, which "
                "only newer versions of torch tell apart: use_reentrant=True, or update torch"
            )
        else:
            begun = [r for r in equal if r.number <= number] or equal
            equal = [r for r in begun if r.segment is begun[-1].segment]
    # not again in this backward; a second one, of a graph that was retained, begins anew
    return next((r for r in equal if r.backward != now), equal[-1])


def _differ(a: _Record, b: _Record) -> bool:
    return not all(map(torch.equal, a.statistics, b.statistics))


def _segment() -> object:
    """What tells segments of checkpointing apart that is not reentrant: each has its own hooks."""
    if not torch.is_grad_enabled():
        return None
    hooks = _hooks(True) if _hooks is not None else None
    return ref(hooks[1]) if hooks else ()  # weak, for the hooks know the inputs of the segment


_first_time = opaque(
    "first_time(Tensor like) -> Tensor",
    lambda like: like.new_full((), 1 - is_repeated(), dtype=torch.long),
    lambda like: like.new_empty((), dtype=torch.long),
)
