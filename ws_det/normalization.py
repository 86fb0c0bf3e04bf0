"""The two halves of Batch-Channel Normalization (BCN, arXiv:1911.09738), one after the other.

Shape shorthand in this file:
    N: images, C: channels, G: groups, H W: feature cells
"""

from __future__ import annotations

from typing import Optional  # TorchScript of torch 2.1 has no X | None

import torch
from torch import Tensor

from ws_det.moments import center, move_estimates


def est_batch_norm(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Optional[Tensor] = None,  # noqa: UP045
    bias: Optional[Tensor] = None,  # noqa: UP045
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    keep_finite: bool = True,
) -> Tensor:
    """Estimate-based batch normalization, the micro-batch half of BCN (arXiv:1911.09738).

    In training the running statistics are moved first, in place and without gradient::

        mean = input.mean over N, H, W
        var = ((input - running_mean) ** 2).mean over N, H, W      # around the OLD running mean
        running += momentum * (statistic - running)

    and then, in training as in evaluation, the running statistics normalize the input.

    Args:
        input: (N, C, H, W). With N = 0 the statistics stay as they are.
        running_mean: (C,), updated in place in training.
        running_var: (C,), updated in place in training.
        weight: (C,) or None.
        bias: (C,) or None.
        training: Whether to update the statistics.
        momentum: The rate above. The authors' code leaves it at 0, which never learns.
        eps: Added to the variance before the root.
        keep_finite: Whether the statistics of a channel stay as they are where those of the input
            are not finite. One bad image would otherwise spoil them for good.

    Returns:
        (N, C, H, W) in the input's dtype.

    Raises:
        InputError: If activation checkpointing repeats a pass in training that is not among the
            last 64.
    """
    if training and input.numel():
        with torch.no_grad():
            _, moments = center(input)
        running_mean, running_var = move_estimates(
            moments, running_mean, running_var, momentum, keep_finite
        )[1:]
    if weight is not None and weight.dtype != running_mean.dtype:
        # The native norm takes half parameters with half statistics alone.
        weight = weight.to(running_mean.dtype)
        bias = None if bias is None else bias.to(running_mean.dtype)
    return torch.nn.functional.batch_norm(
        input, running_mean, running_var, weight, bias, training=False, eps=eps
    )


def channel_norm(
    input: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """The channel half of BCN: group normalization with one affine pair per GROUP.

    ``torch.nn.functional.group_norm`` has one per channel; this is the difference.

    Args:
        input: (N, C, H, W).
        num_groups: G, divides C.
        weight: G elements, any shape; the authors store (1, G, 1).
        bias: G elements.
        eps: Added to the variance before the root.

    Returns:
        (N, C, H, W) in the input's dtype.
    """
    per_group = input.shape[1] // num_groups
    weight = weight.reshape(-1, 1).expand(-1, per_group).reshape(-1)
    bias = bias.reshape(-1, 1).expand(-1, per_group).reshape(-1)
    # Not torch.nn.functional.group_norm: it refuses a single value per group in training.
    return torch.group_norm(input, num_groups, weight, bias, eps)
