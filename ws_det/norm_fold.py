"""Fold the norms of a model for inference, EstBN and BCN, into torch's own.

In evaluation EstBN is a batch norm. BCN is a batch norm and then a normalization of groups: the
first is an affine map per channel, which the convolution before it can do, and the second is a
GroupNorm. Further it does not go: the offsets that the first adds to the channels of a group
change the mean of the group and remain in the second, so no GroupNorm alone gives the same.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ws_det.convert import WS_CLASSES, norm_pairs
from ws_det.norms import BatchChannelNorm2d, EstBatchNorm2d
from ws_det.plain import mark


def est_bns(module: nn.Module) -> list[EstBatchNorm2d]:
    """The EstBN layers of a model, but those inside BCN."""
    inner = {norm.bn for norm in bcns(module)}
    return [m for m in module.modules() if isinstance(m, EstBatchNorm2d) and m not in inner]


def bcns(module: nn.Module) -> list[BatchChannelNorm2d]:
    """The BCN layers of a model."""
    return [m for m in module.modules() if isinstance(m, BatchChannelNorm2d)]


def fold_est_bn(norm: EstBatchNorm2d) -> None:
    """Turn EstBN into the BatchNorm2d with the same tensors, in place."""
    norm.__class__ = nn.BatchNorm2d
    mark(norm)


@torch.no_grad()
def fold_bcns(module: nn.Module) -> nn.Module:
    """Turn every BCN into a GroupNorm, its batch norm into a part of the convolution before it.

    Where no convolution before it is known, or not one that has this norm behind it alone, a batch
    norm stays in front of the GroupNorm.

    Args:
        module: A model.

    Returns:
        ``module``, or if it is itself a BCN the two norms that it becomes.
    """
    pairs = norm_pairs(module)
    paired = Counter(m for pair in pairs for m in pair)
    names = Counter(child for parent in module.modules() for child in parent._modules.values())
    before = {
        norm: conv for conv, norm in pairs if all(paired[m] == names[m] == 1 for m in (conv, norm))
    }
    new = {norm: _fold_bcn(norm, before.get(norm)) for norm in bcns(module)}
    for parent in list(module.modules()):
        for name, child in parent._modules.items():  # named_children() would skip a second name
            if child in new:
                parent._modules[name] = new[child]
    return new.get(module, module)


def _fold_bcn(norm: BatchChannelNorm2d, conv: nn.Module | None) -> nn.Module:
    per_group = norm.num_channels // norm.num_groups
    group_norm = nn.GroupNorm(norm.num_groups, norm.num_channels, norm.eps).train(norm.training)
    for name in ("weight", "bias"):
        value = getattr(norm, name).flatten().repeat_interleave(per_group)
        setattr(group_norm, name, nn.Parameter(value, getattr(norm, name).requires_grad))
    mark(group_norm)
    if conv is not None and _takes_factors(conv):
        bn = norm.bn
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias,
            conv.transposed,
        )  # fmt: skip
        if not hasattr(conv, "ws_folded"):
            mark(conv)
        return group_norm
    if isinstance(norm.bn, EstBatchNorm2d):
        fold_est_bn(norm.bn)
    return nn.Sequential(OrderedDict(bn=norm.bn, gn=group_norm))


def _takes_factors(conv: nn.Module) -> bool:
    """Whether a convolution keeps a weight that is set; a pruned one computes it at every call."""
    plain = type(conv) in WS_CLASSES and "weight" in conv._parameters
    return plain and not (conv.transposed and conv.groups > 1)
