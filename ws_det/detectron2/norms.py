"""Norms by name for Detectron2, whose own ``get_norm`` knows a fixed set and 32 groups alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from ws_det.errors import InputError
from ws_det.norms import BatchChannelNorm2d, EstBatchNorm2d

#: Names that Detectron2's ``get_norm`` builds itself; "" is none.
DETECTRON2_NORMS = (
    "",
    "BN",
    "SyncBN",
    "FrozenBN",
    "LN",
    "nnSyncBN",
    "naiveSyncBN",
    "naiveSyncBN_N",
)
NAMES = (*DETECTRON2_NORMS, "GN", "BCN", "EstBN")


def get_norm(
    name: str, num_groups: int = 32, estimate: bool = True, momentum: float = 0.1
) -> str | Callable[[int], nn.Module]:
    """What to give to a ``norm`` argument of Detectron2, whose layers take a name or a callable.

    The callables are partials of what can be imported, so a LazyConfig with one of them
    can be printed, saved to yaml and loaded again.

    Args:
        name: "GN", "BCN", "EstBN", or one of Detectron2's own names, which is returned as it is.
        num_groups: G of GN and BCN.
        estimate: Whether BCN takes its statistics from estimates; see
            :class:`ws_det.BatchChannelNorm2d`.
        momentum: Rate of the running statistics of BCN and EstBN.

    Returns:
        A name that Detectron2 knows, or a callable from C to the norm. It raises
        :class:`InputError` if ``num_groups`` does not divide C.

    Raises:
        InputError: If the name is unknown.
    """
    if name == "GN":
        return partial(group_norm, num_groups=num_groups)
    if name == "BCN":
        return partial(
            BatchChannelNorm2d, num_groups=num_groups, estimate=estimate, momentum=momentum
        )
    if name == "EstBN":
        return partial(EstBatchNorm2d, momentum=momentum)
    if name not in DETECTRON2_NORMS:
        known = ", ".join(repr(known) for known in NAMES)
        raise InputError(f"unknown norm {name!r}: choose one of {known}")
    return name


def group_norm(channels: int, num_groups: int = 32) -> nn.GroupNorm:
    """GroupNorm with the number of channels first.

    Raises:
        InputError: If ``num_groups`` does not divide ``channels``.
    """
    if num_groups < 1 or channels % num_groups:
        raise InputError(
            f"num_groups={num_groups} does not divide the {channels} channels of a GN: choose a "
            f"divisor of {channels}"
        )
    return nn.GroupNorm(num_groups, channels)
