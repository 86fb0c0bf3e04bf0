"""Mean and variance of each image and channel, and the statistics of norms that follow from them.

Shape shorthand in this file:
    N: images, C: channels, H W: feature cells, K = H * W

The mean is kept as a sum of two, ``mean`` and ``rest``. Float32 holds a mean of 1000 to 3e-5, which
both halves of BCN together multiply by up to 1e5 where a channel hardly varies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ws_det.compiling import is_compiling, is_exporting, opaque
from ws_det.recomputed import begin, first_time, is_repeated


def center(input: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Subtract the mean of each image and channel, which also gives its moments.

    Two passes over the input: what the first leaves of a mean the second finds, and the variance
    is that around the mean, whatever the mean.

    Args:
        input: (N, C, H, W), not empty.

    Returns:
        The input minus ``mean``, (N, C, H, W), and the moments, (N, C) each: ``mean``; ``rest``,
        what the true mean has beyond it; the biased variance. All in float32 or better.
    """
    cells = input.shape[2] * input.shape[3]
    if input.dtype == torch.float16 or input.dtype == torch.bfloat16:
        input = input.float()
    input = input.contiguous()
    cell = input[:, :, 0, 0]
    if torch.jit.is_scripting() or not is_compiling():
        mean = input.mean((2, 3))
        # A cell will do as well where it is as near as rounding: a constant channel's is its mean.
        mean = torch.where((cell - mean).abs() < 1e-5 * mean.abs(), cell, mean)
        centered = input - mean[:, :, None, None]
        rest = centered.mean((2, 3))
        square = _square_of_cells(centered) / cells
    else:
        # Sums that a compiler fuses, which round more than torch's own.
        mean = cell + sum_of_cells(input - cell[:, :, None, None]) / cells
        centered = input - mean[:, :, None, None]
        rest = sum_of_cells(centered) / cells
        square = sum_of_cells(centered.square()) / cells
    return centered, (mean, rest, (square - rest.square()).clamp_min(0))


def move_estimates(
    moments: tuple[Tensor, Tensor, Tensor],
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    keep_finite: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Move the running statistics of ``est_batch_norm``, in place and once.

    A pass that activation checkpointing repeats moves nothing, and gets what it got at first.

    Not to be called under ``no_grad``, by which reentrant checkpointing is known; the arguments
    have no gradient anyway.

    Args:
        moments: Of the input, from ``center`` without gradient.
        running_mean: (C,).
        running_var: (C,).
        momentum: Rate.
        keep_finite: Whether channels whose statistics are not finite stay as they are.

    Returns:
        The mean of each image and channel minus the moved running mean, (N, C), and the moved
        statistics, (C,) each. They are no views of the buffers: a layer shared over levels moves
        those again before backward.
    """
    mean, rest, var = moments
    if not torch.jit.is_scripting():  # noqa: SIM102  TorchScript leaves out such branches only
        if is_compiling() and not is_exporting():
            offset, new_mean, new_var, kept_mean, kept_var = _move_when_run(
                mean, rest, var, running_mean, running_var, momentum, keep_finite
            )
            running_mean.copy_(kept_mean)
            running_var.copy_(kept_var)
            return offset, new_mean, new_var
    old_mean, old_var, moves = running_mean, running_var, True
    if not torch.jit.is_scripting():
        old_mean, old_var = begin(mean, var, running_mean, running_var)
        moves = not is_repeated()
    offset, new_mean, new_var = _moved(mean, rest, var, old_mean, old_var, momentum, keep_finite)
    if moves:
        running_mean.copy_(new_mean)
        running_var.copy_(new_var)
    return offset, new_mean, new_var


def _moved(
    mean: Tensor, rest: Tensor, var: Tensor, old_mean: Tensor, old_var: Tensor,
    momentum: float, keep_finite: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    # The mean square around the old mean, per image and channel, without a second pass.
    offset = (mean - old_mean) + rest
    var = (var + offset.square()).mean(0)
    step = momentum * offset.mean(0)
    new_var = old_var + momentum * (var - old_var)
    if keep_finite:
        finite = new_var - new_var == 0  # a mean that is not has such a variance
        step, new_var = step.where(finite, 0.0), new_var.where(finite, old_var)
    return offset - step, old_mean + step, new_var


def _move_opaquely(
    mean: Tensor, rest: Tensor, var: Tensor, running_mean: Tensor, running_var: Tensor,
    momentum: float, keep_finite: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """What ``move_estimates`` returns, and what the buffers are to hold.

    A compiler must not look into it: in backward it would compute the statistics again, from
    buffers that have moved, and whether a pass is a repeated one shows when it runs.
    """
    old = begin(mean, var, running_mean, running_var)
    moved = _moved(mean, rest, var, *old, momentum, keep_finite)
    kept = (running_mean, running_var) if is_repeated() else moved[1:]
    pairs = zip(kept, (running_mean, running_var))
    return *moved, *(new.to(buffer.dtype, copy=True) for new, buffer in pairs)


_move_when_run = opaque(
    "move_estimates(Tensor mean, Tensor rest, Tensor var, Tensor running_mean, Tensor running_var,"
    " float momentum, bool keep_finite) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _move_opaquely,
    lambda mean, rest, var, running_mean, running_var, *_: (
        torch.empty_like(mean), *(torch.empty_like(mean[0]) for _ in range(2)),
        torch.empty_like(running_mean), torch.empty_like(running_var),
    ),
)  # fmt: skip


def move_running_statistics(
    moments: tuple[Tensor, Tensor, Tensor],
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    count: int,
) -> tuple[Tensor, Tensor]:
    """The statistics of a batch; the running ones are moved as torch's batch norm moves them.

    But once: torch's moves them again where activation checkpointing repeats a pass. The running
    ones of channels whose statistics are not finite are lost, as torch's are; training goes on.

    Args:
        moments: Of the input, from ``center`` without gradient.
        running_mean: (C,), updated in place.
        running_var: (C,), updated in place, by the unbiased variance.
        momentum: Rate.
        count: N * K, 2 or more.

    Returns:
        The mean of each image and channel minus that of the batch, (N, C), and the biased variance
        of the batch, (C,).
    """
    mean, rest, var = moments
    first = mean[0]
    offset = (mean - first) + rest  # around any image: nearly equal means subtract exactly
    shift = offset.mean(0)
    offset = offset - shift
    batch_var = (var + offset.square()).mean(0)
    if not is_compiling():
        begin(mean, var, running_mean)  # refuses a pass in backward that repeats none
    once = first_time(mean)  # or 0
    unbiased = batch_var * (count / (count - 1))
    for running, new in ((running_mean, first + shift), (running_var, unbiased)):
        moves = once.to(running) if isinstance(once, Tensor) else once
        running.lerp_(new.to(running.dtype), momentum * moves)
    return offset, batch_var


def _square_of_cells(x: Tensor) -> Tensor:
    """Sum of squares over H and W, by the kernel that makes no copy of the activation."""
    if x.shape[2] * x.shape[3] > 4096:  # in two steps, or float32 sums lose a digit
        return torch.linalg.vector_norm(x, dim=3).square().sum(2)
    return torch.linalg.vector_norm(x.flatten(2), dim=2).square()


def sum_of_cells(x: Tensor) -> Tensor:
    """Sum over H and W for a compiler: beyond 4096 cells torch's takes a slow loop (torch 2.13)."""
    return x.sum(3).sum(2) if x.shape[2] * x.shape[3] > 4096 else x.sum((2, 3))
