"""The arithmetic of Batch-Channel Normalization (BCN, arXiv:1911.09738).

Shape shorthand in this file:
    N: images, C: channels, G: groups, H W: feature cells, K = H * W
"""

from __future__ import annotations

from typing import Any, Optional  # TorchScript of torch 2.1 has no X | None

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ws_det.compiling import is_compiling

# Below the square of any deviation that matters, above the smallest float32: the native norms
# divide by sqrt(variance + _TINY), so that a constant channel gives 1e15 and not infinity.
_TINY = 1e-30


def est_batch_norm(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Optional[Tensor] = None,  # noqa: UP045
    bias: Optional[Tensor] = None,  # noqa: UP045
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
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

    Returns:
        (N, C, H, W) in the input's dtype.
    """
    if training and input.numel():
        with torch.no_grad():
            mean, var = channel_moments(input)
            running_mean, running_var = update_estimates(
                mean, var, running_mean, running_var, momentum
            )
            if not torch.jit.is_scripting() and is_compiling():
                running_mean, running_var = _computed_once(running_mean, running_var)
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


def batch_channel_norm(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    inner_weight: Tensor,
    inner_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    moments: tuple[Tensor, Tensor],
    batch_statistics: bool,
    eps: float = 1e-5,
) -> Tensor:
    """Both halves of BCN in one pass over the input, and one over the gradient.

    Equal to a batch norm by the given statistics and ``channel_norm`` after it, whose result needs
    the input's moments alone: the output is the input times a factor plus a summand, one pair per
    image and channel, and so is the gradient. One activation is kept for backward, as in
    GroupNorm, where two norms in a row keep two. The gradient cannot be differentiated again: a
    second backward raises.

    Args:
        input: (N, C, H, W), not empty.
        mean: (C,), by which the inner norm normalizes.
        var: (C,), as ``mean``.
        inner_weight: (C,), of the inner norm.
        inner_bias: (C,), of the inner norm.
        weight: G elements, any shape; the authors store (1, G, 1).
        bias: G elements.
        moments: ``channel_moments(input)``.
        batch_statistics: Whether ``mean`` and ``var`` are those of this batch, so that gradient
            flows through them. Otherwise they are constants.
        eps: Added to the variances before the root.

    Returns:
        (N, C, H, W) in the input's dtype.
    """
    statistic_dtype = moments[0].dtype
    parameters = (p.to(statistic_dtype) for p in (inner_weight, inner_bias, weight, bias))
    out = _BatchChannelNorm.apply(
        input.to(statistic_dtype).contiguous(), *parameters, *moments,
        mean.to(statistic_dtype), var.to(statistic_dtype), batch_statistics, eps,
    )  # fmt: skip
    return out.to(input.dtype)


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
        mean = _sum_of_cells(centered) / cells
        var = (_sum_of_cells(centered.square()) / cells - mean.square()).clamp_min(0)
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


class _BatchChannelNorm(torch.autograd.Function):
    """BCN from the moments m, v of each image and channel, forward and backward.

    The inner norm gives y = a * (x - mean) + inner_bias with a = inner_weight / sigma and
    sigma = sqrt(var + eps). Per image and channel y has mean p = a * (m - mean) + inner_bias and
    variance a**2 * v; a group's mean M and variance follow, R = 1 / sqrt(variance + eps), and::

        out = weight * R * (y - M) + bias,    y - M = a * (x - m) + (p - M)

    With g the gradient, let D0 = sum(g) and D1 = sum(g * (x - m)) over the K cells, and in each
    group of n elements t = sum(g * weight * R * (y - M)) / n and u = sum(g * weight) / n. Then::

        dy = R * (g * weight - u - R * t * (y - M)) = P * g + Q * (x - m) + S
        dx = a * (dy - mean(dy) - xhat * mean(dy * xhat)),    xhat = (x - mean) / sigma

    where the two means, over N and K, are there for batch statistics alone.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, inner_weight: Tensor, inner_bias: Tensor, weight: Tensor,
        bias: Tensor, m: Tensor, v: Tensor, mean: Tensor, var: Tensor, batch_statistics: bool,
        eps: float,
    ) -> Tensor:  # fmt: skip
        n, groups = x.shape[0], weight.numel()
        sigma = (var + eps).sqrt()
        a = inner_weight / sigma
        y_mean = torch.addcmul(inner_bias, a, m - mean).view(n, groups, -1)
        y_var = (a.square() * v).view(n, groups, -1)
        offset = y_mean - y_mean.mean(2, keepdim=True)  # p - M
        root = ((y_var + offset.square()).mean(2, keepdim=True) + eps).rsqrt()
        gain = root * weight.view(1, groups, 1)
        factor = (gain * a.view(1, groups, -1)).reshape(n, -1)
        summand = (gain * offset + bias.view(1, groups, 1)).reshape(n, -1) - factor * m
        factor, summand, *rest = _computed_once(factor, summand, mean, sigma, a, offset, root)
        ctx.save_for_backward(x, weight, m, v, *rest)
        ctx.batch_statistics = batch_statistics
        return _scale_and_shift(x, factor, summand)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, m, v, mean, sigma, a, offset, root = ctx.saved_tensors
        grad = grad.contiguous()
        n, groups, cells = x.shape[0], weight.numel(), x.shape[2] * x.shape[3]
        d0, d1 = (d.view(n, groups, -1) for d in _gradient_sums(grad, x, m))
        weight, a = weight.view(1, groups, 1), a.view(1, groups, -1)
        m_centered, v = (m - mean).view(n, groups, -1), v.view(n, groups, -1)

        d_normalized = root * (a * d1 + offset * d0)  # sum of g * R * (y - M)
        count = cells * m_centered.shape[2]
        u = (weight * d0).sum(2, keepdim=True) / count
        t = (weight * d_normalized).sum(2, keepdim=True) / count
        p = root * weight
        q = -root.square() * t * a
        s = -root * u - root.square() * t * offset

        sum_dy = p * d0 + cells * s
        sum_dy_centered = p * d1 + cells * q * v  # sum of dy * (x - m)
        d_inner_bias = sum_dy.sum(0).flatten()
        d_inner_weight = (sum_dy_centered + m_centered * sum_dy).sum(0).flatten() / sigma
        of_grad, of_x, rest = a * p, a * q, a * s
        if ctx.batch_statistics:
            slope = (a.flatten() / sigma * d_inner_weight / (n * cells)).view_as(a)
            of_x = of_x - slope
            rest = rest - a * d_inner_bias.view_as(a) / (n * cells) - slope * m_centered
        of_grad, of_x, rest = (c.reshape(n, -1) for c in (of_grad, of_x, rest))
        of_grad, of_x, rest = _computed_once(of_grad, of_x, rest - of_x * m)
        dx = _scale_and_shift(x, of_x, rest)
        dx = dx.addcmul_(grad, of_grad[:, :, None, None])
        d_weight, d_bias = d_normalized.sum((0, 2)), d0.sum((0, 2))
        shape = ctx.saved_tensors[1].shape
        return (
            dx, d_inner_weight, d_inner_bias, d_weight.view(shape), d_bias.view(shape),
            *[None] * 6,
        )  # fmt: skip


def _computed_once(*values: Tensor) -> tuple[Tensor, ...]:
    """Small tensors that a compiler must take as they are, and not compute again where needed.

    In backward it would compute statistics from buffers that have moved since, with wrong
    gradients (seen with torch 2.13), and in a loop it would compute them for every element.
    """
    if not is_compiling():
        return values
    flat = _copy(torch.cat([value.reshape(-1) for value in values]))
    parts = flat.split([value.numel() for value in values])
    return tuple(part.view(value.shape) for part, value in zip(parts, values))


# An operation that the compiler cannot look into. Not by torch.library.custom_op, whose calls cost
# six times as much.
_library = torch.library.Library("ws_det", "DEF")
_library.define("copy(Tensor values) -> Tensor")
_library.impl("copy", torch.clone, "CompositeExplicitAutograd")
_copy = torch.ops.ws_det.copy.default


def _scale_and_shift(x: Tensor, factor: Tensor, summand: Tensor) -> Tensor:
    """``x * factor + summand`` with one pair per image and channel, (N, C) each."""
    if is_compiling():
        return x * factor[:, :, None, None] + summand[:, :, None, None]
    # A native batch norm in evaluation mode: the only kernel that does it in one pass.
    rows = x.view(1, factor.numel(), -1)
    one, zero = torch.ones_like(factor), torch.zeros_like(factor)
    out = torch.nn.functional.batch_norm(
        rows, zero.flatten(), one.flatten(), factor.flatten(), summand.flatten(), eps=0
    )
    # No view of it: what follows a norm works in place.
    return torch.ops.aten._unsafe_view(out, x.shape)


def _gradient_sums(grad: Tensor, x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of ``grad`` and of ``grad * (x - m)`` over the cells, (N, C) each."""
    if is_compiling():
        return _sum_of_cells(grad), _sum_of_cells(grad * (x - m[:, :, None, None]))
    # A native group norm's gradient for its affine pair, each channel of each image a group.
    count, cells = m.numel(), x.shape[2] * x.shape[3]
    one, flat = torch.ones_like(m), (1, count, cells)
    _, d1, d0 = torch.ops.aten.native_group_norm_backward(
        grad.view(flat), x.view(flat), m.view(1, -1), one.view(1, -1), one.flatten(),
        1, count, cells, count, [False, True, True],
    )  # fmt: skip
    return d0, d1


def _sum_of_cells(x: Tensor) -> Tensor:
    """Sum over H and W for a compiler: beyond 4096 cells torch's takes a slow loop (torch 2.13)."""
    return x.sum(3).sum(2) if x.shape[2] * x.shape[3] > 4096 else x.sum((2, 3))
