"""WS convolutions, drop-in for torch's own.

Shape shorthand in this file:
    O: output channels of a kernel, I: its input channels
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ws_det import functional, fuse
from ws_det.compiling import in_onnx_export
from ws_det.errors import InputError
from ws_det.plain import is_marked

__all__ = [
    "WSConv1d",
    "WSConv2d",
    "WSConv3d",
    "WSConvTranspose2d",
]


class WeightStandardized(fuse.Fusible):
    """What all WS convolutions share; mixed in before a torch convolution class.

    The state dict holds the raw kernel under torch's own keys; it is standardized at every call.
    """

    # For TorchScript, which compiles the branch of a constant only.
    __constants__ = (*nn.modules.conv._ConvNd.__constants__, "adaptive")

    def __init__(
        self,
        *args: Any,
        formula: str = "ws",
        eps: float | None = None,
        center: bool = True,
        scale: bool = True,
        adaptive: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.configure_ws(formula, eps, center, scale, adaptive)

    def configure_ws(
        self,
        formula: str = "ws",
        eps: float | None = None,
        center: bool = True,
        scale: bool = True,
        adaptive: bool = False,
    ) -> None:
        """Set the options of a WS convolution; see :class:`WSConv2d`.

        Raises:
            ValueError: As :class:`WSConv2d`.
        """
        chosen, self.eps = functional.resolve_formula(formula, eps)
        functional.check_fan_in(self.weight.shape, self.transposed, self.groups)
        self.correction, self.eps_inside = chosen.correction, chosen.eps_inside
        self.formula, self.center, self.scale, self.adaptive = formula, center, scale, adaptive
        if adaptive:
            shape = (self.out_channels, *[1] * (self.weight.ndim - 1))
            self.register_buffer("weight_gamma", self.weight.new_ones(shape))
            self.register_buffer("weight_beta", self.weight.new_zeros(shape))

    def standardized_weight(self) -> Tensor:
        """The kernel that the convolution uses: shape, dtype and format of ``weight``.

        It is computed at every call, and nothing is kept from one to the next: two passes have two
        graphs, as with torch's layers.

        Raises:
            InputError: In an export to ONNX, whose graph would standardize it at every run; if the
                weight is complex or has whole numbers.
        """
        if not torch.jit.is_scripting():
            self._check_standardizable()
        return functional.standardize_kernel(
            self.weight,
            self.correction,
            self.eps_inside,
            self.eps,
            self.center,
            self.scale,
            self.weight_gamma if self.adaptive else None,
            self.weight_beta if self.adaptive else None,
            self.transposed,
            self.groups,
        )

    def _check_standardizable(self) -> None:
        if in_onnx_export():
            raise InputError(
                "a WS convolution would be exported with its standardization, to be computed at "
                "every run: call fold_ws(model) before the export to ONNX"
            )
        if not self.weight.is_floating_point():
            raise InputError(
                f"the weight of {type(self).__name__} is of type {self.weight.dtype}, which has no "
                f"standard deviation: give it a real floating-point type"
            )

    def forward(self, input: Tensor) -> Tensor:
        """As the torch class, with the standardized kernel."""
        if not torch.jit.is_scripting():  # noqa: SIM102  TorchScript leaves out such branches only
            if isinstance(input, torch.fx.Proxy):
                return fuse.fx_node(self, input)
        return self._convolve(input, self.standardized_weight(), self.bias)

    def extra_repr(self) -> str:
        """Torch's own, and the WS options."""
        text = f"{super().extra_repr()}, formula={self.formula!r}, eps={self.eps}"
        for name, default in (("center", True), ("scale", True), ("adaptive", False)):
            value = getattr(self, name)
            text += f", {name}={value}" if value != default else ""
        return text

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if is_marked(local_metadata):
            error_msgs.append(
                f"{prefix}weight is folded and would be standardized twice: load it into a plain "
                f"convolution, or load the checkpoint from before folding"
            )
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        own = [prefix + name for name in ("weight_gamma", "weight_beta")]
        if self.adaptive and prefix + "weight" in state_dict and set(own) <= set(missing_keys):
            # A plain checkpoint: start as the function it holds, as mmcv's ConvAWS does.
            self.adapt_to(self.weight)
            missing_keys[:] = [key for key in missing_keys if key not in own]

    def adapt_to(self, weight: Tensor) -> None:
        """Set gain and bias of the adaptive form so that ``weight`` stays as it is."""
        with torch.no_grad():
            beta, gamma = functional.weight_mean_and_deviation(
                weight,
                self.eps,
                formula=self.formula,
                transposed=self.transposed,
                groups=self.groups,
            )
            self.weight_gamma.copy_(gamma.reshape(self.weight_gamma.shape))
            self.weight_beta.copy_(beta.reshape(self.weight_beta.shape))


class WSConv1d(WeightStandardized, nn.Conv1d):
    """Weight-standardized :class:`torch.nn.Conv1d`; options as in :class:`WSConv2d`."""

    _convolve = fuse.torch_convolution(nn.Conv1d)


class WSConv2d(WeightStandardized, nn.Conv2d):
    """Weight-standardized :class:`torch.nn.Conv2d` (arXiv:1903.10520).

    Takes every argument of torch's class, and by keyword:

    Args:
        formula: Which WS formula, a key of :data:`ws_det.functional.FORMULAS`. The default equals
            mmcv's ConvWS.
        eps: Epsilon of the deviation; None takes the formula's own.
        center: False is the ablation "deviation only".
        scale: False is the ablation "mean only".
        adaptive: Keep a gain ``weight_gamma`` and a bias ``weight_beta`` per output channel, two
            buffers of shape (O, 1, 1, 1), which make a plain checkpoint start as the function it
            was. With ``formula="bcn"`` this is mmcv's ConvAWS (DetectoRS, arXiv:2006.02334).

    Raises:
        ValueError: If fan-in is 1 (a 1x1 depthwise kernel), the formula is unknown or eps is
            negative.
    """

    _convolve = fuse.torch_convolution(nn.Conv2d)


class WSConv3d(WeightStandardized, nn.Conv3d):
    """Weight-standardized :class:`torch.nn.Conv3d`; options as in :class:`WSConv2d`."""

    _convolve = fuse.torch_convolution(nn.Conv3d)


class WSConvTranspose2d(WeightStandardized, nn.ConvTranspose2d):
    """Weight-standardized :class:`torch.nn.ConvTranspose2d`; options as in :class:`WSConv2d`.

    The deviation is per OUTPUT channel here too, though torch stores (I, O / groups, H, W).
    """

    # TorchScript of torch 2.1 has no X | None.
    def forward(self, input: Tensor, output_size: Optional[list[int]] = None) -> Tensor:  # noqa: UP045
        """(N, I, H, W) -> (N, O, H', W'); ``output_size`` as in torch's class."""
        if not torch.jit.is_scripting():  # noqa: SIM102  TorchScript leaves out such branches only
            if isinstance(input, torch.fx.Proxy):
                return fuse.fx_node(self, input, output_size)
        output_padding = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, 2, self.dilation
        )
        return F.conv_transpose2d(
            input,
            self.standardized_weight(),
            self.bias,
            self.stride,
            self.padding,
            output_padding,
            self.groups,
            self.dilation,
        )
