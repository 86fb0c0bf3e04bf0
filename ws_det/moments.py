"""Mean and variance of each image and channel, and the statistics of norms that follow from them.

Shape shorthand in this file:
    N: images, C: channels, H W: feature cells, K = H * W
"""

from __future__ import annotations

import torch
from torch import Tensor

from ws_det.compiling import is_compiling

# Below the square of any deviation that matters, above the smallest float32: the native norms
# divide by sqrt(variance + _TINY), so that a constant channel gives 1e15 and not infinity.
_TINY = 1e-30


def channel_moments(input: Tensor, tiny: float = _TINY) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per image and channel, (N, C) each, float32 or better."""
    batch, channels = input.shape[0], input.shape[1]
    if input.dtype == torch.float16 or input.dtype == torch.bfloat16:
        input = input.float()
    if not torch.jit.is_scripting() and is_compiling():
        # Sums that a compiler fuses. An element of the channel is near enough to its mean.
        cells = input.shape[2] * input.shape[3]
        shift = input[:, :, 0, 0]
        centered = input - shift[:, :, None, None]
        mean = sum_of_cells(centered) / cells
        var = (sum_of_cells(centered.square()) / cells - mean.square()).clamp_min(0)
        return mean + shift, var
    rows = input.contiguous().view(1, batch * channels, -1)  # channels last is no view
    # The native norm's own statistics: on a CPU much faster than torch.var_mean over N, H, W.
    cells, count = rows.shape[2], rows.shape[1]
    _, mean, rstd = torch.native_group_norm(rows, None, None, 1, count, cells, count, tiny)
    return mean.view(batch, channels), rstd.pow(-2).view(batch, channels)


def update_estimates(
    mean: Tensor, var: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float
) -> tuple[Tensor, Tensor]:
    """Move the running statistics of ``est_batch_norm``, in place.

    Args:
        mean: (N, C), of ``channel_moments``.
        var: (N, C), of ``channel_moments``.
        running_mean: (C,).
        running_var: (C,).
        momentum: Rate.

    Returns:
        The statistics as they are now, (C,) each, for use in a graph: a layer shared over levels
        moves the buffers again before backward.
    """
    # The mean square around the old mean, per image and channel, without a second pass.
    var = (var + (mean - running_mean).square()).mean(0)
    running_mean.lerp_(mean.mean(0).to(running_mean.dtype), momentum)
    running_var.lerp_(var.to(running_var.dtype), momentum)
    return running_mean.clone(), running_var.clone()


def update_running_statistics(
    mean: Tensor,
    var: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    count: int,
) -> tuple[Tensor, Tensor]:
    """The statistics of a batch; the running ones are moved as torch's batch norm moves them.

    Args:
        mean: (N, C), of ``channel_moments``.
        var: (N, C), of ``channel_moments``.
        running_mean: (C,), updated in place.
        running_var: (C,), updated in place, by the unbiased variance.
        momentum: Rate.
        count: N * K, 2 or more.

    Returns:
        Mean and biased variance of the batch, (C,) each.
    """
    batch_mean = mean.mean(0)
    batch_var = (var + (mean - batch_mean).square()).mean(0)
    running_mean.lerp_(batch_mean.to(running_mean.dtype), momentum)
    running_var.lerp_((batch_var * (count / (count - 1))).to(running_var.dtype), momentum)
    return batch_mean, batch_var


def sum_of_cells(x: Tensor) -> Tensor:
    """Sum over H and W for a compiler: beyond 4096 cells torch's takes a slow loop (torch 2.13)."""
    return x.sum(3).sum(2) if x.shape[2] * x.shape[3] > 4096 else x.sum((2, 3))
