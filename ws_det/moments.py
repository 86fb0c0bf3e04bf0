"""Mean and variance of each image and channel, and the statistics of norms that follow from them.

Shape shorthand in this file:
    N: images, C: channels, H W: feature cells, K = H * W

The mean is kept as a sum of two, ``mean`` and ``rest``. Float32 holds a mean of 1000 to 3e-5, which
both halves of BCN together multiply by up to 1e5 where a channel hardly varies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ws_det.compiling import computed_once, is_compiling
from ws_det.recomputed import begin, is_repeated


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
    old_mean, old_var, repeated = running_mean, running_var, False
    if not torch.jit.is_scripting():
        repeated = is_repeated()
        old_mean, old_var = begin(mean, var, running_mean, running_var)
    # The mean square around the old mean, per image and channel, without a second pass.
    offset = (mean - old_mean) + rest
    var = (var + offset.square()).mean(0)
    step = momentum * offset.mean(0)
    new_var = old_var + momentum * (var - old_var)
    if keep_finite:
        finite = new_var - new_var == 0  # a mean that is not has such a variance
        step, new_var = step.where(finite, 0.0), new_var.where(finite, old_var)
    offset, new_mean = offset - step, old_mean + step
    if not torch.jit.is_scripting():
        offset, new_mean, new_var = computed_once(offset, new_mean, new_var)
    if not repeated:
        running_mean.copy_(new_mean)
        running_var.copy_(new_var)
    return offset, new_mean, new_var


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
    begin(mean, var, running_mean)  # refuses a pass in backward that repeats none
    if not is_repeated():
        running_mean.lerp_((first + shift).to(running_mean.dtype), momentum)
        running_var.lerp_((batch_var * (count / (count - 1))).to(running_var.dtype), momentum)
    return offset, batch_var


def _square_of_cells(x: Tensor) -> Tensor:
    """Sum of squares over H and W, by the kernel that makes no copy of the activation."""
    if x.shape[2] * x.shape[3] > 4096:  # in two steps, or float32 sums lose a digit
        return torch.linalg.vector_norm(x, dim=3).square().sum(2)
    return torch.linalg.vector_norm(x.flatten(2), dim=2).square()


def sum_of_cells(x: Tensor) -> Tensor:
    """Sum over H and W for a compiler: beyond 4096 cells torch's takes a slow loop (torch 2.13)."""
    return x.sum(3).sum(2) if x.shape[2] * x.shape[3] > 4096 else x.sum((2, 3))
