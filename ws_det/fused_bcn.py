"""Batch-Channel Normalization (BCN, arXiv:1911.09738) in one pass over the activation.

Shape shorthand in this file:
    N: images, C: channels, G: groups, H W: feature cells, K = H * W
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ws_det.compiling import computed_once, is_compiling
from ws_det.moments import sum_of_cells


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
        factor, summand, *rest = computed_once(factor, summand, mean, sigma, a, offset, root)
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
        of_grad, of_x, rest = computed_once(of_grad, of_x, rest - of_x * m)
        dx = _scale_and_shift(x, of_x, rest)
        dx = dx.addcmul_(grad, of_grad[:, :, None, None])
        d_weight, d_bias = d_normalized.sum((0, 2)), d0.sum((0, 2))
        shape = ctx.saved_tensors[1].shape
        return (
            dx, d_inner_weight, d_inner_bias, d_weight.view(shape), d_bias.view(shape),
            *[None] * 6,
        )  # fmt: skip


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
        return sum_of_cells(grad), sum_of_cells(grad * (x - m[:, :, None, None]))
    # A native group norm's gradient for its affine pair, each channel of each image a group.
    count, cells = m.numel(), x.shape[2] * x.shape[3]
    one, flat = torch.ones_like(m), (1, count, cells)
    _, d1, d0 = torch.ops.aten.native_group_norm_backward(
        grad.view(flat), x.view(flat), m.view(1, -1), one.view(1, -1), one.flatten(),
        1, count, cells, count, [False, True, True],
    )  # fmt: skip
    return d0, d1
