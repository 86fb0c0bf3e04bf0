"""The norms EstBN and BCN.

Shape shorthand in this file:
    N: images, C: channels, G: groups, H W: feature cells
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ws_det import drift
from ws_det.compiling import is_exporting, is_traced, is_transformed
from ws_det.errors import InputError
from ws_det.fuse import fx_node
from ws_det.fused_bcn import batch_channel_norm
from ws_det.moments import center, move_estimates, move_running_statistics
from ws_det.normalization import channel_norm, est_batch_norm
from ws_det.recomputed import first_time, is_repeated

_HALF = (torch.float16, torch.bfloat16)
_HOOKS = ("forward", "forward_pre", "backward", "backward_pre")

__all__ = ["BatchChannelNorm2d", "EstBatchNorm2d", "average_estimates"]


class EstBatchNorm2d(nn.InstanceNorm2d):
    """Estimate-based batch normalization: normalizes by running statistics in training too.

    See :func:`ws_det.normalization.est_batch_norm` for the formula. In DDP every rank updates its
    own buffers; ``average_estimates`` makes them equal after a step.

    A frozen layer, one whose weight needs no gradient, keeps its estimates in training mode too:
    freezing a pretrained stage (Detectron2's ``FREEZE_AT``, MMDetection's ``requires_grad=False``
    of a norm) then freezes all of it.

    It is no ``_BatchNorm``, on purpose: detectors put every ``_BatchNorm`` into eval mode
    (MMDetection's ``norm_eval``) or swap it for a frozen one (Detectron2's ``freeze``), and either
    would stop the estimates without a word. As an ``InstanceNorm2d``, with the same parameters and
    buffers, both frameworks still know it for a norm in their weight decay rules.

    Activation checkpointing, reentrant or not, gives the gradients of a plain pass and moves the
    estimates once; at most 64 passes of a layer may wait for their backward. In torch.func's
    transforms and in forward-mode AD it works in evaluation or frozen; in training torch refuses
    it, as it does its own batch norm, for the estimates change in place. They are float32 whatever
    the type of the model.

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
        self.keep_finite = True  # see est_batch_norm; StepEstimates gives up whole steps instead
        _in_float32(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """As torch's, but ``half()`` leaves the statistics in float32."""
        return _keep_float32(self, lambda: super(EstBatchNorm2d, self)._apply(fn, recurse))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        _in_float32(self)  # load_state_dict(assign=True) takes the file's type

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape; in training the estimates move first, unless frozen."""
        if not torch.jit.is_scripting():  # noqa: SIM102  TorchScript leaves out such branches only
            if isinstance(input, torch.fx.Proxy):
                return fx_node(self, input)
        if input.ndim != 4:
            raise ValueError(f"EstBatchNorm2d expects (N, C, H, W), got {list(input.shape)}")
        learns = self.learns()
        if learns and input.numel():
            self.count_batch()
        return est_batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=learns,
            momentum=self.momentum,
            eps=self.eps,
            keep_finite=self.keep_finite,
        )

    def count_batch(self) -> None:
        """Count a batch, once: not where activation checkpointing repeats its pass."""
        if torch.jit.is_scripting():
            self.num_batches_tracked.add_(1)
        else:
            self.num_batches_tracked.add_(first_time(self.num_batches_tracked))
            self._watch()

    @torch.jit.unused
    def _watch(self) -> None:
        # StepEstimates looks after them itself, and a compiled graph has no place to look from
        if self.keep_finite and not is_traced() and not is_repeated():
            drift.watch(self)

    def learns(self) -> bool:
        """Whether a forward pass moves the estimates: in training mode and not frozen."""
        return self.training and (self.weight is None or self.weight.requires_grad)


class BatchChannelNorm2d(nn.GroupNorm):
    """Batch-Channel Normalization (arXiv:1911.09738).

    A batch norm per channel, child ``bn``, then a normalization of every (image, group) with one
    affine pair per GROUP: ``weight`` and ``bias`` have shape (1, G, 1), not (C,) as in GroupNorm.

    What :class:`EstBatchNorm2d` says of activation checkpointing, torch.func and half models holds
    for both forms. A second derivative raises, but not in torch.func, where both halves are torch's
    own norms.

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
        _in_float32(self.bn)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """As torch's, but ``half()`` leaves the statistics in float32."""
        return _keep_float32(self.bn, lambda: super(BatchChannelNorm2d, self)._apply(fn, recurse))

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        if not torch.jit.is_scripting():  # noqa: SIM102  TorchScript leaves out such branches only
            if isinstance(input, torch.fx.Proxy):
                return fx_node(self, input)
        if torch.jit.is_scripting() or torch.jit.is_tracing():
            out = self.bn(input)  # for evaluation, where a graph needs no branch
        elif self._in_one_pass(input):
            return self._forward_in_one_pass(input)
        elif input.numel() or isinstance(self.bn, nn.SyncBatchNorm):
            # SyncBatchNorm must run on an empty rank as well: the other ranks wait for it.
            out = self._call_inner(input)
        else:
            bn = self.bn
            out = F.batch_norm(input, bn.running_mean, bn.running_var, bn.weight, bn.bias)
        return channel_norm(out, self.num_groups, self.weight, self.bias, self.eps)

    @torch.jit.unused
    def _in_one_pass(self, input: Tensor) -> bool:
        """Whether both halves can be computed at once, which does not call the inner norm.

        It must be a norm whose arithmetic this class knows, called by nobody else's hooks, and no
        derivative or graph be asked for that needs torch's own operations.
        """
        bn = self.bn
        single = input.numel() == input.shape[1]  # torch refuses a batch norm of one value
        return (
            input.numel() > 0
            and not (single and bn.training and isinstance(bn, nn.BatchNorm2d))
            and type(bn) in (EstBatchNorm2d, nn.BatchNorm2d)
            and all(value is not None for value in (bn.weight, bn.running_mean, bn.momentum))
            and bn.eps == self.eps
            and not _has_hooks(bn)
            and not is_transformed()
            and not is_exporting()
        )

    @torch.jit.unused
    def _forward_in_one_pass(self, input: Tensor) -> Tensor:
        bn, batch_statistics = self.bn, False
        with torch.no_grad():
            centered, moments = center(input)
        if isinstance(bn, EstBatchNorm2d) and bn.learns():
            bn.count_batch()
            offset, _, var = move_estimates(
                moments, bn.running_mean, bn.running_var, bn.momentum, bn.keep_finite
            )
        elif isinstance(bn, nn.BatchNorm2d) and bn.training:
            batch_statistics = True
            bn.num_batches_tracked.add_(first_time(bn.num_batches_tracked))
            offset, var = move_running_statistics(
                moments, bn.running_mean, bn.running_var, bn.momentum,
                input.numel() // input.shape[1],
            )  # fmt: skip
        else:
            offset, var = (moments[0] - bn.running_mean) + moments[1], bn.running_var
        return batch_channel_norm(
            input, centered, moments, offset, var, bn.weight, bn.bias, self.weight,
            self.bias, batch_statistics, self.eps,
        )  # fmt: skip

    @torch.jit.unused
    def _call_inner(self, input: Tensor) -> Tensor:
        """The inner norm as a module; statistics of a repeated pass are moved in copies of them."""
        bn = self.bn
        if isinstance(bn, EstBatchNorm2d) or not (bn.training and is_repeated()):
            return bn(input)
        kept = dict(bn._buffers)
        bn._buffers.update((name, b.clone()) for name, b in kept.items() if b is not None)
        try:
            return bn(input)
        finally:
            bn._buffers.update(kept)

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
    for layer in layers:
        drift.note_averaged(layer)
    flat = torch.cat(buffers)
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for buffer, mean in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(mean)


def _keep_float32(norm: nn.Module, apply: Callable[[], nn.Module]) -> nn.Module:
    """Apply something to a norm, and take statistics that it made half from before."""
    before = dict(norm._buffers)
    result = apply()
    for name, buffer in norm._buffers.items():
        if buffer is not None and buffer.dtype in _HALF:
            norm._buffers[name] = before[name].to(buffer.device)
    _in_float32(norm)
    return result


def _in_float32(norm: nn.Module) -> None:
    """Statistics of values of some hundreds overflow float16."""
    for name, buffer in norm._buffers.items():
        if buffer is not None and buffer.dtype in _HALF:
            norm._buffers[name] = buffer.float()


def _has_hooks(module: nn.Module) -> bool:
    """Whether somebody waits for calls of a module, or of all modules."""
    of_all = nn.modules.module
    return any(getattr(module, f"_{kind}_hooks") for kind in _HOOKS) or any(
        getattr(of_all, f"_global_{kind}_hooks") for kind in _HOOKS
    )


def _check_momentum(momentum: float) -> None:
    if not 0 < momentum <= 1:
        raise InputError(
            f"momentum must be in (0, 1], got {momentum}: a rate of 0 would never learn the "
            f"running statistics"
        )
