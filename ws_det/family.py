"""Tell with which norms, and whether with WS, weights were trained."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ws_det.fold import is_folded

# A filter trained with WS gets no gradient along its mean (arXiv:1903.10520, eq. 11), so the mean
# stays at its random start, where |mean| * sqrt(F) / deviation has a median of 0.67, or decays.
# Without WS the mean is trained, and the median over all filters grows with training.
_WITHOUT_WS = 1.0
# It grows in some layers more than in others: in each of six published plain networks (three for
# reading text, YOLOv8n, CREPE in two sizes) the medians of a tenth of the layers are above 1.25.
# With WS it grows in no layer, and random layers of 32 filters stay below.
_WITH_WS = 0.85
# Random filters look the same, so it takes a sign of training too: the largest singular value of
# a layer's centred filters, over that of random numbers.
_TRAINED = 1.1
# Folded kernels have a deviation of 1: biased or unbiased, 2 % apart for 27 elements, and less some
# epsilon.
_STANDARD = 0.03


_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Family(NamedTuple):
    """How the weights of a network were trained.

    Attributes:
        norm: ``"bn"`` (with running statistics), ``"bcn"``, ``"gn"`` (or another norm without
            running statistics), or ``""`` if there is none.
        ws: Whether with WS, for weights before folding; None where nothing tells.
        folded: Whether they are marked as folded.
    """

    norm: str
    ws: bool | None
    folded: bool


def norm_family(state_dict: dict[str, Any]) -> Family:
    """Tell with which norms, and whether with WS, the weights of a network were trained.

    Norms show in the keys. WS does not, its checkpoints have the keys of plain ones; it shows in
    the kernels, whose means are left alone by WS and trained without it. Weights from random
    initialization, or trained so briefly or with such an optimizer that the means say nothing,
    give None.

    Args:
        state_dict: Of a detector or of a backbone.

    Returns:
        The family.
    """
    return Family(norm_of(state_dict), _ws(state_dict), is_folded(state_dict))


def mean_ratios(filters: Tensor) -> Tensor:
    """(O, F) -> (O): ``|mean| * sqrt(F) / deviation``, its median 0.67 for normal numbers."""
    return filters.mean(1).abs() * filters.shape[1] ** 0.5 / filters.std(1).clamp_min(1e-12)


def is_dense(value: Any) -> bool:
    """Whether a value is a tensor whose elements are there: not sparse, not one of few expanded."""
    return (
        isinstance(value, Tensor)
        and not (value.is_nested or value.is_quantized)
        and value.layout is torch.strided
        and value.device.type != "meta"
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def norm_of(state_dict: dict[str, Any]) -> str:
    """The norms of a network, as :class:`Family` names them, by the keys of its weights."""
    norms = {key.rpartition(".")[0] for key in state_dict if key.endswith(".running_mean")}
    if norms:
        bcn = (n.endswith((".bn", ".pbn")) and _is_bcn(state_dict, n) for n in norms)
        return "bcn" if all(bcn) else "bn"
    if any(key.endswith("_bn_s") for key in state_dict):  # Caffe2's name of a batch norm's weight
        return "bn"
    affine = (
        isinstance(value, Tensor) and value.ndim == 1 and key.endswith(".weight")
        for key, value in state_dict.items()
    )
    return "gn" if any(affine) else ""


def _is_bcn(state_dict: dict[str, Any], inner_norm: str) -> bool:
    outer = state_dict.get(inner_norm.rpartition(".")[0] + ".weight")
    return isinstance(outer, Tensor) and outer.ndim == 3


def _ws(state_dict: dict[str, Any]) -> bool | None:
    if any(key.endswith("weight_gamma") for key in state_dict):
        return True  # the gain of adaptive WS
    layers = [
        value.detach().flatten(1).float()
        for value in state_dict.values()
        if is_dense(value) and value.dtype in _DTYPES and value.ndim == 4
        if value.numel() and value[0].numel() >= 8 and value.isfinite().all()
    ]
    if not layers:
        return None
    ratios = [mean_ratios(filters) for filters in layers]
    if torch.cat(ratios).median() > _WITHOUT_WS:
        return False
    medians = [float(found.median()) for found in ratios if len(found) >= 32]
    if not medians or sorted(medians)[int(0.9 * len(medians))] > _WITH_WS or _are_standard(layers):
        return None
    return True if _sign_of_training(layers) > _TRAINED else None


def _are_standard(layers: list[Tensor]) -> bool:
    """Whether the filters, but for a tenth, are standardized already: folded, and not marked."""
    off = torch.cat([(filters.std(1) - 1).abs() for filters in layers])
    return bool(off.sort().values[int(0.9 * len(off))] < _STANDARD)


def _sign_of_training(layers: list[Tensor]) -> float:
    """Median over up to 32 layers of the largest singular value over that of random filters."""
    signs = []
    for filters in layers[:: 1 + len(layers) // 32]:
        centred = filters - filters.mean(1, keepdim=True)
        centred /= centred.std(1, keepdim=True).clamp_min(1e-12)
        # Power iteration, from below. The start is the same each time, and so is the answer.
        vector = torch.randn(centred.shape[1], generator=torch.Generator().manual_seed(0))
        for _ in range(10):
            vector = centred.T @ (centred @ vector)
            vector /= vector.norm().clamp_min(1e-12)
        edge = centred.shape[0] ** 0.5 + centred.shape[1] ** 0.5
        signs.append((centred @ vector).norm() / edge)
    return float(torch.stack(signs).median())
