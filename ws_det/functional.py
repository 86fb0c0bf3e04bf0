"""The arithmetic of Weight Standardization (WS).

Shape shorthand in this file:
    O: output channels of a kernel, I: its input channels, F: fan-in = I / groups * kernel cells
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional  # TorchScript of torch 2.1 has no X | None

import torch
from torch import Tensor

from ws_det.compiling import is_compiling, is_transformed
from ws_det.errors import InputError

# Below the square of any deviation that matters, above the smallest float32: native_layer_norm
# divides by sqrt(variance + _TINY), so that a constant filter gives 1e15 and not infinity.
_TINY = 1e-30


class Formula(NamedTuple):
    """How a WS formula turns a filter's variance into the divisor.

    Attributes:
        correction: Subtracted from F under the variance: 1 is the unbiased, 0 the biased variance.
        eps_inside: True for ``sqrt(var + eps)``, False for ``sqrt(var) + eps``.
        eps: The epsilon its source uses.
    """

    correction: int
    eps_inside: bool
    eps: float


FORMULAS: dict[str, Formula] = {
    # WS authors' PyTorch release and detection fork, mmcv ConvWS. Every published detector.
    "ws": Formula(correction=1, eps_inside=False, eps=1e-5),
    # BCN authors' ImageNet code, mmcv ConvAWS.
    "bcn": Formula(correction=1, eps_inside=True, eps=1e-5),
    # The equation of the WS paper (arXiv:1903.10520) and its TensorFlow snippet.
    "paper": Formula(correction=0, eps_inside=False, eps=1e-5),
    # Big Transfer (big_transfer, bit_pytorch/models.py).
    "bit": Formula(correction=0, eps_inside=True, eps=1e-10),
    # timm StdConv2d; its ScaledStdConv2d is this with gain * gamma / sqrt(F) given as ``gain``.
    "timm": Formula(correction=0, eps_inside=True, eps=1e-6),
}


def standardize_weight(
    weight: Tensor,
    eps: float | None = None,
    *,
    formula: str = "ws",
    center: bool = True,
    scale: bool = True,
    gain: Tensor | None = None,
    bias: Tensor | None = None,
    transposed: bool = False,
    groups: int = 1,
) -> Tensor:
    """Standardize a convolution kernel per output channel.

    Every filter w (the F elements that make one output channel) becomes
    ``(w - mean(w)) / deviation(w)``. The default deviation is ``std(w, unbiased) + 1e-5``: the
    authors' release, not the paper's equation, because every published detector was trained
    with it. ``FORMULAS`` lists the others by name.

    Statistics are computed in float32 for float16 and bfloat16 kernels, otherwise in the kernel's
    own dtype. A constant filter gives (nearly) zeros and a finite gradient. Gradients of any order,
    forward-mode AD and the transforms of torch.func work; what torch.compile has compiled has first
    gradients alone, which is a limit of the compiler.

    Args:
        weight: Kernel of any rank, (O, I / groups, ...); for ``transposed`` (I, O / groups, ...).
        eps: Epsilon of the deviation; None takes the formula's own.
        formula: A key of ``FORMULAS``.
        center: Subtract the mean. False is the paper's ablation "deviation only".
        scale: Divide by the deviation. False is the paper's ablation "mean only".
        gain: O factors applied after standardization (adaptive WS, ScaledStdConv2d), any shape.
        bias: O summands applied after ``gain`` (adaptive WS), any shape.
        transposed: The kernel belongs to a transposed convolution.
        groups: Groups of the convolution. It matters for ``transposed`` kernels alone.

    Returns:
        The standardized kernel: shape, dtype and memory format of ``weight``.

    Raises:
        ValueError: If the formula is unknown, the kernel has less than two dimensions, or its
            fan-in is 1 (a single element has no deviation).
    """
    chosen, eps = resolve_formula(formula, eps)
    check_fan_in(weight.shape, transposed, groups)
    return standardize_kernel(
        weight, chosen.correction, chosen.eps_inside, eps,
        center, scale, gain, bias, transposed, groups,
    )  # fmt: skip


def standardize_kernel(
    weight: Tensor,
    correction: int,
    eps_inside: bool,
    eps: float,
    center: bool = True,
    scale: bool = True,
    gain: Optional[Tensor] = None,  # noqa: UP045
    bias: Optional[Tensor] = None,  # noqa: UP045
    transposed: bool = False,
    groups: int = 1,
) -> Tensor:
    """:func:`standardize_weight` without its checks, for the layers; TorchScript compiles it."""
    rows = _to_rows(weight, transposed, groups)
    if rows.dtype == torch.float16 or rows.dtype == torch.bfloat16:
        rows = rows.float()
    if center and scale:
        if torch.jit.is_scripting() or torch.jit.is_tracing():
            out = _standardize_in_graph(rows, correction, eps_inside, eps)
        elif _can_run_native():
            out = _Standardize.apply(rows, correction, eps_inside, eps)[0]
        else:
            out = _standardize_by_sums(rows, correction, eps_inside, eps)
    elif center:
        out = rows - rows.mean(1, keepdim=True)
    elif scale:
        out = rows / _mean_and_deviation(rows, correction, eps_inside, eps)[1]
    else:
        out = rows
    if gain is not None:
        out = out * gain.reshape(-1, 1).to(out.dtype)
    if bias is not None:
        out = out + bias.reshape(-1, 1).to(out.dtype)
    return _from_rows(out.to(weight.dtype), weight, transposed, groups)


def weight_mean_and_deviation(
    weight: Tensor,
    eps: float | None = None,
    *,
    formula: str = "ws",
    transposed: bool = False,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """Mean and deviation, epsilon included, that WS would remove from a kernel.

    With these as ``bias`` and ``gain`` :func:`standardize_weight` returns the kernel itself.

    Args:
        weight: Kernel as in :func:`standardize_weight`.
        eps: Epsilon of the deviation; None takes the formula's own.
        formula: A key of ``FORMULAS``.
        transposed: The kernel belongs to a transposed convolution.
        groups: Groups of the convolution.

    Returns:
        Two tensors of O elements.

    Raises:
        ValueError: As :func:`standardize_weight`.
    """
    chosen, eps = resolve_formula(formula, eps)
    check_fan_in(weight.shape, transposed, groups)
    mean, deviation = _mean_and_deviation(
        _to_rows(weight, transposed, groups), chosen.correction, chosen.eps_inside, eps
    )
    return mean.flatten(), deviation.flatten()


def resolve_formula(formula: str, eps: float | None) -> tuple[Formula, float]:
    """Look a formula up by name and settle its epsilon.

    Raises:
        InputError: If there is no such formula, or eps is negative.
    """
    if formula not in FORMULAS:
        raise InputError(f"unknown WS formula {formula!r}: choose one of {', '.join(FORMULAS)}")
    chosen = FORMULAS[formula]
    eps = chosen.eps if eps is None else eps
    if not eps >= 0:
        raise InputError(f"eps must not be negative, got {eps}")
    return chosen, eps


def check_fan_in(shape: Sequence[int], transposed: bool = False, groups: int = 1) -> None:
    """Refuse kernels whose filters have a single element.

    Args:
        shape: Kernel shape: (O, I / groups, ...), for ``transposed`` (I, O / groups, ...).
        transposed: The kernel belongs to a transposed convolution.
        groups: Groups of the convolution. It matters for ``transposed`` kernels alone.

    Raises:
        ValueError: If the shape has less than two dimensions, or fan-in is 1.
    """
    if len(shape) < 2:
        raise ValueError(f"a convolution kernel has two or more dimensions, got {tuple(shape)}")
    inputs = shape[0] // groups if transposed else shape[1]
    if inputs * math.prod(shape[2:]) == 1:
        raise ValueError(
            f"weight standardization needs two or more elements per filter, but the kernel of "
            f"shape {tuple(shape)} has fan-in 1: leave this convolution unstandardized"
        )


class _Standardize(torch.autograd.Function):
    """Standardized rows and their ``inner`` number, forward and backward by native layer norm.

    With ŵ the output, s the std without and d with epsilon, n = F - correction, t (``inner``) = d
    where epsilon is inside the root and s otherwise, and h the gradient of t::

        gradient = (g - mean(g)) / d + ŵ * (h * d - sum(g * ŵ)) / (n * t)

    ŵ and t are outputs, so autograd can differentiate this once more, and t has a gradient then.

    Layer norm's backward computes ``r * (g - mean(g)) - r**3 * x * sum(g * x) / F`` for inputs x
    of zero mean, so r**2 = F * d / (n * t) and one factor 1 / (d * r) per row make them equal.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, correction: int, eps_inside: bool, eps: float
    ) -> tuple[Tensor, Tensor]:
        out, inner = _standardize_rows(rows, correction, eps_inside, eps)
        ctx.save_for_backward(out, inner)
        ctx.set_materialize_grads(False)
        ctx.freedom, ctx.eps_outside = rows.shape[1] - correction, 0.0 if eps_inside else eps
        return out, inner

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_inner: Tensor | None
    ) -> tuple[Tensor, None, None, None]:
        out, inner = ctx.saved_tensors
        deviation = inner + ctx.eps_outside
        if grad is None:
            grad = torch.zeros_like(out)
        if grad_inner is not None or torch.is_grad_enabled() or not _can_run_native():
            slope = (grad * out).sum(1, keepdim=True)
            if grad_inner is not None:
                slope = slope - grad_inner * deviation
            centered = grad - grad.mean(1, keepdim=True)
            return centered / deviation - out * (slope / (ctx.freedom * inner)), None, None, None
        fan_in = out.shape[1]
        r = (fan_in / ctx.freedom * deviation / inner).sqrt()
        grad_rows = torch.ops.aten.native_layer_norm_backward(
            grad.contiguous(), out, (fan_in,), torch.zeros_like(r), r, None, None,
            [True, False, False],
        )[0]  # fmt: skip
        return grad_rows.mul_(1 / (deviation * r)), None, None, None


def _can_run_native() -> bool:
    """Whether nobody but plain autograd looks on: no compiler, torch.func or forward AD."""
    return not (is_compiling() or is_transformed())


def _standardize_rows(
    rows: Tensor, correction: int, eps_inside: bool, eps: float
) -> tuple[Tensor, Tensor]:
    """The standardized rows, and their std, with epsilon where that is inside the root."""
    fan_in = rows.shape[1]
    out, _, rstd = torch.native_layer_norm(rows, [fan_in], None, None, _TINY)
    inner = (fan_in / (fan_in - correction)) ** 0.5 / rstd
    if eps_inside:
        inner = (inner.square() + eps).sqrt()
    deviation = inner if eps_inside else inner + eps
    out.mul_(1 / (rstd * deviation))
    return out, inner


@torch.jit.script_if_tracing  # a trace would take F for a tensor, and round it
def _standardize_in_graph(
    rows: Tensor, correction: int, eps_inside: bool, eps: float, tiny: float = _TINY
) -> Tensor:
    """As ``_standardize_rows`` to the bit, for a graph, which holds no autograd function of ours.

    What the native norm returns of a deviation has no gradient, so it gets that of the sums.
    """
    fan_in = rows.shape[1]
    out, _, rstd = torch.native_layer_norm(rows, [fan_in], None, None, tiny)
    centered = rows - rows.mean(1, keepdim=True)
    by_sums = 1 / (centered.square().mean(1, keepdim=True) + tiny).sqrt()
    rstd = rstd.detach() + (by_sums - by_sums.detach())
    inner = (fan_in / (fan_in - correction)) ** 0.5 / rstd
    if eps_inside:
        inner = (inner.square() + eps).sqrt()
    deviation = inner if eps_inside else inner + eps
    return out * (1 / (rstd * deviation))


def _standardize_by_sums(
    rows: Tensor, correction: int, eps_inside: bool, eps: float, tiny: float = _TINY
) -> Tensor:
    """The standardized rows by operations that all of torch can differentiate, map and fuse.

    A compiler makes fast loops of sums and slow ones of layer norm.
    """
    centered = rows - rows.mean(1, keepdim=True)
    variance = centered.square().sum(1, keepdim=True) / (rows.shape[1] - correction)
    # The tiny summand keeps the gradient of a constant filter finite.
    if eps_inside:
        return centered / (variance + (eps + tiny)).sqrt()
    return centered / ((variance + tiny).sqrt() + eps)


@torch.jit.script_if_tracing
def _mean_and_deviation(
    rows: Tensor, correction: int, eps_inside: bool, eps: float
) -> tuple[Tensor, Tensor]:
    mean = rows.mean(1, keepdim=True)
    # vector_norm, not std: its gradient at zero is zero, std's is NaN.
    norm = torch.linalg.vector_norm(rows - mean, dim=1, keepdim=True)
    std = norm / (rows.shape[1] - correction) ** 0.5
    return mean, (std.square() + eps).sqrt() if eps_inside else std + eps


def _to_rows(weight: Tensor, transposed: bool, groups: int) -> Tensor:
    """Kernel -> (O, F). The order inside a row is free, so channels_last needs no copy."""
    if transposed:
        grouped = weight.unflatten(0, (groups, -1)).transpose(1, 2)
        return grouped.flatten(0, 1).flatten(1)
    return (weight.movedim(1, -1) if _is_channels_last(weight) else weight).flatten(1)


def _from_rows(rows: Tensor, weight: Tensor, transposed: bool, groups: int) -> Tensor:
    """The inverse of ``_to_rows``, in the memory format of ``weight``."""
    if transposed:
        inputs, outputs = weight.shape[0] // groups, weight.shape[1]
        grouped = rows.reshape([groups, outputs, inputs] + list(weight.shape[2:]))  # noqa: RUF005
        kernel = grouped.transpose(1, 2).flatten(0, 1)
        if _is_channels_last(weight):
            return kernel.movedim(1, -1).contiguous().movedim(-1, 1)
        return kernel.contiguous()
    if _is_channels_last(weight):
        return rows.reshape(weight.movedim(1, -1).shape).movedim(-1, 1)
    return rows.reshape(weight.shape)


def _is_channels_last(weight: Tensor) -> bool:
    return not weight.is_contiguous() and weight.movedim(1, -1).is_contiguous()
