"""Layers: WS convolutions (drop-in for torch's own) and the norms EstBN and BCN.

Shape shorthand in this file:
    N: images, C: channels, G: groups, H W: feature cells
    O: output channels of a kernel, I: its input channels
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ws_det import functional
from ws_det.errors import InputError

__all__ = [
    "BatchChannelNorm2d",
    "EstBatchNorm2d",
    "WSConv1d",
    "WSConv2d",
    "WSConv3d",
    "WSConvTranspose2d",
]


class WeightStandardized:
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
        """The kernel that the convolution uses: shape, dtype and format of ``weight``."""
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

    def forward(self, input: Tensor) -> Tensor:
        """As the torch class, with the standardized kernel."""
        return self._conv_forward(input, self.standardized_weight(), self.bias)

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
        if local_metadata.get("ws_folded"):
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


class WSConv3d(WeightStandardized, nn.Conv3d):
    """Weight-standardized :class:`torch.nn.Conv3d`; options as in :class:`WSConv2d`."""


class WSConvTranspose2d(WeightStandardized, nn.ConvTranspose2d):
    """Weight-standardized :class:`torch.nn.ConvTranspose2d`; options as in :class:`WSConv2d`.

    The deviation is per OUTPUT channel here too, though torch stores (I, O / groups, H, W).
    """

    # TorchScript of torch 2.1 has no X | None.
    def forward(self, input: Tensor, output_size: Optional[list[int]] = None) -> Tensor:  # noqa: UP045
        """(N, I, H, W) -> (N, O, H', W'); ``output_size`` as in torch's class."""
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


class EstBatchNorm2d(nn.InstanceNorm2d):
    """Estimate-based batch normalization: normalizes by running statistics in training too.

    See :func:`ws_det.functional.est_batch_norm` for the formula. In DDP every rank updates its own
    buffers; ``average_estimates`` makes them equal after a step.

    A frozen layer, one whose weight needs no gradient, keeps its estimates in training mode too:
    freezing a pretrained stage (Detectron2's ``FREEZE_AT``, MMDetection's ``requires_grad=False``
    of a norm) then freezes all of it.

    It is no ``_BatchNorm``, on purpose: detectors put every ``_BatchNorm`` into eval mode
    (MMDetection's ``norm_eval``) or swap it for a frozen one (Detectron2's ``freeze``), and either
    would stop the estimates without a word. As an ``InstanceNorm2d``, with the same parameters and
    buffers, both frameworks still know it for a norm in their weight decay rules.

    Args:
        num_features: C.
        eps: Added to the variance before the root.
        momentum: Rate of the estimates, ``new = old + momentum * (batch - old)``, in (0, 1]. The
            authors' buffer defaults to 0, which never learns; ours is that of torch's batch norm.
        affine: Whether to have weight and bias, (C,) each.
        device: Device of parameters and buffers.
        dtype: Type of parameters and buffers.

    Raises:
        InputError: If momentum is not in (0, 1].
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_momentum(momentum)
        super().__init__(num_features, eps, momentum, affine, True, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape; in training the estimates move first, unless frozen."""
        if input.ndim != 4:
            raise ValueError(f"EstBatchNorm2d expects (N, C, H, W), got {list(input.shape)}")
        learns = self.learns()
        if learns and input.numel():
            self.num_batches_tracked.add_(1)
        return functional.est_batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=learns,
            momentum=self.momentum,
            eps=self.eps,
        )

    def learns(self) -> bool:
        """Whether a forward pass moves the estimates: in training mode and not frozen."""
        return self.training and (self.weight is None or self.weight.requires_grad)


class BatchChannelNorm2d(nn.GroupNorm):
    """Batch-Channel Normalization (arXiv:1911.09738).

    A batch norm per channel, child ``bn``, then a normalization of every (image, group) with one
    affine pair per GROUP: ``weight`` and ``bias`` have shape (1, G, 1), not (C,) as in GroupNorm.

    Args:
        num_features: C.
        num_groups: G, divides C.
        eps: Added to the variances before the root, in both halves.
        estimate: False: the large-batch form, ``bn`` is a BatchNorm2d, which
            ``SyncBatchNorm.convert_sync_batchnorm`` converts. True: the micro-batch form for 1-2
            images per GPU, ``bn`` is an :class:`EstBatchNorm2d`.
        momentum: Rate of the running statistics of ``bn``, in (0, 1].
        device: Device of parameters and buffers.
        dtype: Type of parameters and buffers.

    Raises:
        InputError: If G does not divide C, or momentum is not in (0, 1].
    """

    def __init__(
        self,
        num_features: int,
        num_groups: int = 32,
        eps: float = 1e-5,
        estimate: bool = False,
        momentum: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if num_groups < 1 or num_features % num_groups:
            raise InputError(
                f"num_groups={num_groups} does not divide num_features={num_features}: "
                f"choose a divisor of {num_features}"
            )
        _check_momentum(momentum)
        super().__init__(num_groups, num_features, eps, affine=False)
        self.affine = True
        self.weight = nn.Parameter(torch.ones(1, num_groups, 1, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(1, num_groups, 1, device=device, dtype=dtype))
        norm = EstBatchNorm2d if estimate else nn.BatchNorm2d
        self.bn = norm(num_features, eps=eps, momentum=momentum, device=device, dtype=dtype)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        if torch.jit.is_scripting() or torch.jit.is_tracing():
            out = self.bn(input)  # for evaluation, where a graph needs no branch
        elif input.numel() or isinstance(self.bn, nn.SyncBatchNorm):
            # SyncBatchNorm must run on an empty rank as well: the other ranks wait for it.
            out = self.bn(input)
        else:
            bn = self.bn
            out = F.batch_norm(input, bn.running_mean, bn.running_var, bn.weight, bn.bias)
        return functional.channel_norm(out, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Channels, groups and epsilon."""
        return f"{self.num_channels}, num_groups={self.num_groups}, eps={self.eps}"


def average_estimates(module: nn.Module) -> None:
    """Make the estimates of every EstBatchNorm2d equal on all ranks, with one all-reduce.

    An update is linear in the batch statistics, so ranks that start a step equal and average
    after it hold the estimate of the whole batch. Layers that do not learn are left alone. Does
    nothing without a process group.

    Args:
        module: Searched for EstBatchNorm2d layers; the same model on every rank.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return
    layers = [m for m in module.modules() if isinstance(m, EstBatchNorm2d) and m.learns()]
    buffers = [b for layer in layers for b in (layer.running_mean, layer.running_var)]
    if not buffers:
        return
    flat = torch.cat(buffers)
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for buffer, mean in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(mean)


def _check_momentum(momentum: float) -> None:
    if not 0 < momentum <= 1:
        raise InputError(
            f"momentum must be in (0, 1], got {momentum}: a rate of 0 would never learn the "
            f"running statistics"
        )
