"""Whoever fuses a batch norm into a WS convolution gets the right one.

mmcv's ``fuse_conv_bn`` and torch's ``fuse_conv_bn_eval`` multiply each filter of a convolution's
weight by a factor and set the product as the new weight; MMEngine's ``efficient_conv_bn_eval`` does
it at every call. They trust that the output follows, but WS would take the factor out again.

Shape shorthand in this file:
    O: output channels of a kernel, F: elements of a filter
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

from ws_det.errors import InputError
from ws_det.plain import become_plain


class Fusible:
    """The part of a WS convolution that others reach into; mixed in before a torch class.

    Needs ``standardized_weight`` and, for ``_conv_forward``, a ``_convolve`` from
    :func:`torch_convolution`.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As in torch's class: called with the raw kernel, or with its filters rescaled."""
        kernel = self.standardized_weight()
        if weight is not self.weight:
            kernel = rescaled(weight, self.weight, kernel)
        if kernel is None:
            raise InputError(
                f"{type(self).__name__} can be called with its own kernel or with the filters of "
                f"it rescaled, and with no other: call fold_ws(model) first"
            )
        return self._convolve(input, kernel, bias)

    def __setattr__(self, name: str, value: Any) -> None:
        """Fold where a batch norm is fused, which ends in this assignment; a weight stays raw else.

        Whether it is one is told by who assigns: a function that has a batch norm in its hands, and
        a weight that is the old one times the factors of that batch norm.
        """
        kernel = self._fused(value, sys._getframe(1)) if name == "weight" else None
        if kernel is None:
            super().__setattr__(name, value)
        else:
            become_plain(self, nn.Parameter(kernel, requires_grad=value.requires_grad))

    @torch.no_grad()
    def _fused(self, weight: Any, frame: FrameType) -> Tensor | None:
        """The kernel meant by a new raw one, if it comes from fusing."""
        old = self.__dict__.get("_parameters", {}).get("weight")
        if not (type(weight) is type(old) is nn.Parameter) or not _comparable(weight, old):
            return None
        kernel = None
        for norm in _batch_norms(frame, self.out_channels):
            factor = _factors(norm, old.shape, self.transposed, self.groups)
            if factor.device == old.device and _is_fused(weight, old, factor, self.adaptive):
                kernel = self.standardized_weight().to(weight.dtype) * factor.to(weight.dtype)
                break
        return kernel


def rescaled(given: Tensor, raw: Tensor, kernel: Tensor) -> Tensor | None:
    """Multiply the filters of ``kernel`` by the factors that lead from ``raw`` to ``given``.

    Args:
        given: What somebody made of ``raw``.
        raw: The raw kernel of a WS convolution, (O, ...).
        kernel: Its standardized one.

    Returns:
        A tensor of the type of ``given``, through which gradient flows; None if ``given`` is not
        ``raw`` with each filter multiplied by a factor.
    """
    if not _comparable(given, raw):
        return None
    ours, theirs = _wide(raw).flatten(1), _wide(given).flatten(1)
    # The largest element of a filter has the factor to its last digits.
    largest = ours.abs().argmax(1, keepdim=True)
    divisor = ours.gather(1, largest)
    empty = divisor == 0
    factor = theirs.gather(1, largest) / divisor.masked_fill(empty, 1)
    with torch.no_grad():
        error = (theirs - factor * ours).abs().amax(1)
        # An element of either product is rounded once, and the factor twice.
        eps = min(torch.finfo(weight.dtype).eps for weight in (raw, given))
        bound = 4 * eps * theirs.abs().amax(1)
        # The factor of an all-zero filter is lost, which matters if it is standardized to another.
        lost = empty & (kernel.flatten(1) != 0)
        if not bool((error <= bound).all()) or bool(lost.any()):
            return None
    ones = [1] * (kernel.ndim - factor.ndim)
    return kernel.to(given.dtype) * factor.view(*factor.shape, *ones).to(given.dtype)


def torch_convolution(plain_class: type[nn.Module]) -> Callable[..., Tensor]:
    """Torch's ``_conv_forward`` named ``_convolve``: TorchScript goes by a function's own name."""
    function = plain_class._conv_forward
    renamed = FunctionType(function.__code__, function.__globals__, "_convolve")
    renamed.__annotations__ = function.__annotations__
    return renamed


def fx_node(module: nn.Module, *args: Any) -> fx.Proxy:
    """One node for a module in a torch.fx graph, as torch's own layers have one.

    ``efficient_conv_bn_eval`` looks for two such nodes in a row. Arguments at the end that are None
    are left out.
    """
    while args[-1] is None:
        args = args[:-1]
    tracer = args[0].tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), args, {})


def _batch_norms(frame: FrameType, channels: int) -> Iterator[nn.Module]:
    """The batch norms in reach of a function and its caller: their variables, and parts of these.

    Two functions, because the one that assigns may be the setter of one that fuses.
    """
    seen = set()
    for function in (frame, frame.f_back):
        for value in list(function.f_locals.values()) if function else ():
            for module in value.modules() if isinstance(value, nn.Module) else ():
                variance = getattr(module, "running_var", None)
                if module not in seen and isinstance(variance, Tensor):
                    seen.add(module)
                    if variance.numel() == channels:
                        yield module


def _factors(norm: nn.Module, shape: torch.Size, transposed: bool, groups: int) -> Tensor:
    """What a batch norm in eval mode multiplies each channel by, shaped to multiply a kernel."""
    factor = torch.rsqrt(norm.running_var + norm.eps).flatten()
    if getattr(norm, "weight", None) is not None:
        factor = factor * norm.weight.flatten()
    ones = [1] * (len(shape) - 2)
    if not transposed:
        return factor.view(-1, 1, *ones)
    grouped = factor.view(groups, 1, -1).expand(-1, shape[0] // groups, -1)
    return grouped.flatten(0, 1).view(*shape[:2], *ones)


def _is_fused(weight: Tensor, old: Tensor, factor: Tensor, adaptive: bool) -> bool:
    """Whether a new weight is the old one times these factors, and for that another function."""
    # Each element is rounded when multiplied, and the factor up to three times before.
    kind = torch.finfo(weight.dtype)
    eps = 4 * max(kind.eps, torch.finfo(factor.dtype).eps)
    new, old, factor = _wide(weight), _wide(old), _wide(factor)

    def equal(new: Tensor, other: Tensor) -> bool:
        return bool(((new - other).abs() <= eps * (new.abs() + kind.tiny)).all())

    first = slice(1)  # a small part tells nearly all that are not
    return (
        equal(new[first], old[first] * factor[first])
        and equal(new, old * factor)
        # WS takes the factor 1 for what it is, and makes zero of zero.
        and not equal(new, old)
        and (adaptive or bool(new.any()))
    )


def _comparable(one: Tensor, other: Tensor) -> bool:
    """Whether two weights can be compared by element."""
    return (
        one.shape == other.shape
        and one.device == other.device
        and not one.is_meta
        and one.is_floating_point()
        and other.is_floating_point()
    )


def _wide(weight: Tensor) -> Tensor:
    """In float32 or better."""
    return weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
