"""Whoever fuses a batch norm into a WS convolution gets the right one.

mmcv's ``fuse_conv_bn`` and torch's ``fuse_conv_bn_eval`` multiply each filter of a convolution's
weight by a factor and set the product as the new weight; MMEngine's ``efficient_conv_bn_eval`` does
it at every call. They trust that the output follows, but WS would take the factor out again.

Shape shorthand in this file:
    O: output channels of a kernel, F: elements of a filter
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
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
        """Fold where a framework has fused a batch norm, which ends in this assignment."""
        kernel = self._fused(value) if name == "weight" else None
        if kernel is None:
            super().__setattr__(name, value)
        else:
            become_plain(self, nn.Parameter(kernel, requires_grad=value.requires_grad))

    @torch.no_grad()
    def _fused(self, weight: Any) -> Tensor | None:
        """The kernel meant by a new raw one that is the old one with rescaled filters."""
        old = self.__dict__.get("_parameters", {}).get("weight")
        if not (type(weight) is type(old) is nn.Parameter) or "_loading" in self.__dict__:
            return None
        kernel = self.standardized_weight()
        kernel = rescaled(weight, old, kernel, self.transposed, self.groups)
        return None if kernel is None or torch.equal(weight, old) else kernel

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # load_state_dict(assign=True) sets the weight, and what it sets is raw.
        self._loading = True
        try:
            super()._load_from_state_dict(*args, **kwargs)
        finally:
            del self._loading


def rescaled(
    given: Tensor, raw: Tensor, kernel: Tensor, transposed: bool = False, groups: int = 1
) -> Tensor | None:
    """Multiply the filters of ``kernel`` by the factors that lead from ``raw`` to ``given``.

    Args:
        given: What somebody made of ``raw``.
        raw: The raw kernel of a WS convolution.
        kernel: Its standardized one.
        transposed: The kernels belong to a transposed convolution.
        groups: Groups of the convolution; it matters for ``transposed`` kernels alone.

    Returns:
        A tensor of the type of ``given``, through which gradient flows; None if ``given`` is not
        ``raw`` with each filter multiplied by a factor.
    """
    if given.shape != raw.shape or given.device != raw.device or given.is_meta:
        return None
    ours, theirs = (_filters(weight, transposed, groups) for weight in (raw, given))
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
        lost = empty & (_filters(kernel, transposed, groups) != 0)
        if not bool((error <= bound).all()) or bool(lost.any()):
            return None
    if transposed:
        inputs = raw.shape[0] // groups
        factor = factor.view(groups, 1, -1).expand(-1, inputs, -1).flatten(0, 1)
    ones = [1] * (kernel.ndim - factor.ndim)
    return kernel.to(given.dtype) * factor.view(*factor.shape, *ones).to(given.dtype)


def torch_convolution(plain_class: type[nn.Module]) -> Callable[..., Tensor]:
    """Torch's ``_conv_forward`` named ``_convolve``: TorchScript goes by a function's own name."""
    function = plain_class._conv_forward
    renamed = FunctionType(function.__code__, function.__globals__, "_convolve")
    renamed.__annotations__ = function.__annotations__
    return renamed


def fx_node(module: nn.Module, input: fx.Proxy) -> fx.Proxy:
    """One node for a module in a torch.fx graph, as torch's own layers have one.

    ``efficient_conv_bn_eval`` looks for two such nodes in a row.
    """
    return input.tracer.create_proxy(
        "call_module", input.tracer.path_of_module(module), (input,), {}
    )


def _filters(weight: Tensor, transposed: bool, groups: int) -> Tensor:
    """Kernel -> (O, F), float32 or better."""
    if weight.dtype == torch.float16 or weight.dtype == torch.bfloat16:
        weight = weight.float()
    if transposed:
        weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1)
