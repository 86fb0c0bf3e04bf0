"""Tell with which norms, and whether with WS, weights were trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ws_det.fold import is_folded

# A filter trained with WS gets no gradient along its mean (arXiv:1903.10520, eq. 11), so the mean
# stays at its random start, where |mean| * sqrt(F) / std has a median of 0.67, or decays. Without
# WS the mean is trained, and the median grows with training.
_MEAN_RATIO = 1.0


def norm_family(state_dict: dict[str, Any]) -> str:
    """Tell with which norms, and whether with WS, the weights of a network were trained.

    Batch norms show in the keys. WS does not, its checkpoints have the keys of plain ones; it
    shows in the kernels, whose means are left alone by WS and trained without it (see
    ``mean_ratio``). Weights from random initialization, or trained so briefly or with such an
    optimizer that the means say nothing, count as WS: the answer errs on the silent side.

    Args:
        state_dict: Of a detector or of a backbone.

    Returns:
        ``"folded"``, ``"bcn"``, ``"bn"``, ``"gn"`` (norms without running statistics, and no
        sign of WS), or ``"gn+ws"``.
    """
    if is_folded(state_dict):
        return "folded"
    norms = {key.rpartition(".")[0] for key in state_dict if key.endswith(".running_mean")}
    if norms and all(
        norm.endswith((".bn", ".pbn")) and _is_bcn(state_dict, norm) for norm in norms
    ):
        return "bcn"
    if norms:
        return "bn"
    return "gn" if mean_ratio(state_dict) > _MEAN_RATIO else "gn+ws"


def mean_ratio(state_dict: dict[str, Any]) -> float:
    """Median over all filters of ``|mean| * sqrt(F) / std``, F being a filter's elements.

    Args:
        state_dict: Convolution kernels are its tensors of four dimensions with F of 8 or more.

    Returns:
        The median, 0 if there is no kernel. About 0.67 for normally distributed filters.
    """
    ratios = [
        (rows.mean(1).abs() * rows.shape[1] ** 0.5 / rows.std(1).clamp_min(1e-12))
        for value in state_dict.values()
        if isinstance(value, Tensor) and value.ndim == 4 and value[0].numel() >= 8
        for rows in [value.flatten(1).float()]
    ]
    return float(torch.cat(ratios).median()) if ratios else 0.0


def _is_bcn(state_dict: dict[str, Any], inner_norm: str) -> bool:
    outer = state_dict.get(inner_norm.rpartition(".")[0] + ".weight")
    return isinstance(outer, Tensor) and outer.ndim == 3
