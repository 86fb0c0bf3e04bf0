"""The WS form of Detectron2's own convolution, which carries its norm and its activation."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import Conv2d
from torch import Tensor
from torch.nn import functional as F

from ws_det import fuse
from ws_det.errors import InputError
from ws_det.layers import WeightStandardized


class WSConv2d(WeightStandardized, Conv2d):
    """Weight-standardized :class:`detectron2.layers.Conv2d`.

    Takes the options of :class:`ws_det.WSConv2d`, and as Detectron2's class ``norm`` and
    ``activation``, which follow the convolution in this order, and empty inputs.

    Raises:
        InputError: If ``padding_mode`` is not "zeros". Detectron2's class accepts another one and
            pads with zeros all the same.
        ValueError: As :class:`ws_det.WSConv2d`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.padding_mode != "zeros":
            raise InputError(
                f"padding_mode={self.padding_mode!r} has no effect in Detectron2's Conv2d: use "
                f"ws_det.WSConv2d, or padding_mode='zeros'"
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, I, H, W) -> (N, O, H', W'): convolution, norm, activation."""
        if not torch.jit.is_scripting():  # noqa: SIM102  TorchScript leaves out such branches only
            if isinstance(x, torch.fx.Proxy):
                return fuse.fx_node(self, x)
        weight = self.standardized_weight()
        x = F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)
