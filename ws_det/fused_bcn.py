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
    centered: Tensor,
    moments: tuple[Tensor, Tensor, Tensor],
    offset: Tensor,
    var: Tensor,
    inner_weight: Tensor,
    inner_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    batch_statistics: bool,
    eps: float = 1e-5,
) -> Tensor:
    """Both halves of BCN in one pass over the input, and one over the gradient.

    Equal to a batch norm by the given statistics and ``channel_norm`` after it, whose result needs
    the input's moments alone: the output is the centered input times a factor plus a summand, one
    pair per image and channel, and so is the gradient. One activation is kept for backward, as in
    GroupNorm, where two norms in a row keep two. The gradient cannot be differentiated again: a
    second derivative raises.

    Args:
        input: (N, C, H, W), not empty.
        centered: (N, C, H, W), by ``center(input)``.
        moments: (N, C) each, by ``center(input)``.
        offset: (N, C), the mean of each image and channel minus the one by which the inner norm
            normalizes. The difference is what counts: means of 1000 in float32 would not give it.
        var: (C,), by which the inner norm normalizes.
        inner_weight: (C,), of the inner norm.
        inner_bias: (C,), of the inner norm.
        weight: G elements, any shape; the authors store (1, G, 1).
        bias: G elements.
        batch_statistics: Whether mean and variance are those of this batch, so that gradient flows
            through them. Otherwise they are constants.
        eps: Added to the variances before the root.

    Returns:
        (N, C, H, W) in the input's dtype.
    """
    dtype = centered.dtype
    parameters = (p.to(dtype) for p in (inner_weight, inner_bias, weight, bias))
    return _BatchChannelNorm.apply(
        input, *parameters, centered, *moments[1:], offset.to(dtype), var.to(dtype),
        batch_statistics, eps,
    )  # fmt: skip


class _BatchChannelNorm(torch.autograd.Function):
    """BCN from the moments of each image and channel, forward and backward.

    With x the input, m and v its mean and variance in an image and channel, z = x - m + rest the
    centered input, and mu the mean of the inner norm, of which m - mu = offset, that norm gives
    y = a * (x - mu) + inner_bias with a = inner_weight / sigma and sigma = sqrt(var + eps). Per
    image and channel y has mean p = a * offset + inner_bias and variance a**2 * v; a group's mean M
    and variance follow, R = 1 / sqrt(variance + eps), and::

        out = weight * R * (y - M) + bias,    y - M = a * (x - m) + (p - M)

    With g the gradient, let D0 = sum(g) and D1 = sum(g * (x - m)) over the K cells, and in each
    group of n elements t = sum(g * weight * R * (y - M)) / n and u = sum(g * weight) / n. Then::

        dy = R * (g * weight - u - R * t * (y - M)) = P * g + Q * (x - m) + S
        dx = a * (dy - mean(dy) - xhat * mean(dy * xhat)),    xhat = (x - mu) / sigma

    where the two means, over N and K, are there for batch statistics alone.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, inner_weight: Tensor, inner_bias: Tensor, weight: Tensor,
        bias: Tensor, z: Tensor, rest: Tensor, v: Tensor, offset: Tensor, var: Tensor,
        batch_statistics: bool, eps: float,
    ) -> Tensor:  # fmt: skip
        n, groups = x.shape[0], weight.numel()
        sigma = (var + eps).sqrt()
        a = inner_weight / sigma
        p = torch.addcmul(inner_bias, a, offset).view(n, groups, -1)
        y_var = (a.square() * v).view(n, groups, -1)
        rise = p - p.mean(2, keepdim=True)  # p - M
        root = ((y_var + rise.square()).mean(2, keepdim=True) + eps).rsqrt()
        gain = root * weight.view(1, groups, 1)
        factor = (gain * a.view(1, groups, -1)).reshape(n, -1)
        summand = (gain * rise + bias.view(1, groups, 1)).reshape(n, -1) - factor * rest
        factor, summand, *kept = computed_once(
            factor, summand, rest, v, offset, sigma, a, rise, root
        )
        ctx.save_for_backward(z, weight, *kept)
        ctx.batch_statistics, ctx.dtype = batch_statistics, x.dtype
        return _scale_and_shift(z, factor, summand).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # Unpacked once: activation checkpointing gives each saved tensor a single time.
        z, group_weight, rest, v, offset, sigma, a, rise, root = ctx.saved_tensors
        grad = grad.to(z.dtype).contiguous()
        n, groups, cells = z.shape[0], group_weight.numel(), z.shape[2] * z.shape[3]
        d0, dz = _gradient_sums(grad, z)
        d1 = (dz - rest * d0).view(n, groups, -1)
        d0 = d0.view(n, groups, -1)
        weight, a = group_weight.view(1, groups, 1), a.view(1, groups, -1)
        offset, v = offset.view(n, groups, -1), v.view(n, groups, -1)

        d_normalized = root * (a * d1 + rise * d0)  # sum of g * R * (y - M)
        count = cells * offset.shape[2]
        u = (weight * d0).sum(2, keepdim=True) / count
        t = (weight * d_normalized).sum(2, keepdim=True) / count
        p = root * weight
        q = -root.square() * t * a
        s = -root * u - root.square() * t * rise

        sum_dy = p * d0 + cells * s
        sum_dy_centered = p * d1 + cells * q * v  # sum of dy * (x - m)
        d_inner_bias = sum_dy.sum(0).flatten()
        d_inner_weight = (sum_dy_centered + offset * sum_dy).sum(0).flatten() / sigma
        of_grad, of_x, summand = a * p, a * q, a * s
        if ctx.batch_statistics:
            slope = (a.flatten() / sigma * d_inner_weight / (n * cells)).view_as(a)
            of_x = of_x - slope
            summand = summand - a * d_inner_bias.view_as(a) / (n * cells) - slope * offset
        of_grad, of_x, summand = (c.reshape(n, -1) for c in (of_grad, of_x, summand))
        of_grad, of_x, summand = computed_once(of_grad, of_x, summand - of_x * rest)
        dx = _scale_and_shift(z, of_x, summand)
        dx = dx.addcmul_(grad, of_grad[:, :, None, None]).to(ctx.dtype)
        d_weight, d_bias = d_normalized.sum((0, 2)), d0.sum((0, 2))
        shape = group_weight.shape
        return (
            dx, d_inner_weight, d_inner_bias, d_weight.view(shape), d_bias.view(shape),
            *[None] * 7,
        )  # fmt: skip


def _scale_and_shift(z: Tensor, factor: Tensor, summand: Tensor) -> Tensor:
    """``z * factor + summand`` with one pair per image and channel, (N, C) each."""
    if is_compiling():
        return z * factor[:, :, None, None] + summand[:, :, None, None]
    # A native batch norm in evaluation mode: the only kernel that does it in one pass.
    rows = z.view(1, factor.numel(), -1)
    one, zero = torch.ones_like(factor), torch.zeros_like(factor)
    out = torch.nn.functional.batch_norm(
        rows, zero.flatten(), one.flatten(), factor.flatten(), summand.flatten(), eps=0
    )
    # No view of it: what follows a norm works in place.
    return torch.ops.aten._unsafe_view(out, z.shape)


def _gradient_sums(grad: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of ``grad`` and of ``grad * z`` over the cells, (N, C) each."""
    if is_compiling():
        return sum_of_cells(grad), sum_of_cells(grad * z)
    # A native group norm's gradient for its affine pair, each channel of each image a group.
    batch, channels, cells = z.shape[0], z.shape[1], z.shape[2] * z.shape[3]
    count, one = batch * channels, grad.new_ones(batch * channels)
    flat = (1, count, cells)
    _, dz, d0 = torch.ops.aten.native_group_norm_backward(
        grad.view(flat), z.view(flat), grad.new_zeros(1, count), one.view(1, -1), one,
        1, count, cells, count, [False, True, True],
    )  # fmt: skip
    return d0.view(batch, channels), dz.view(batch, channels)
