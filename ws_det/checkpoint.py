"""Read checkpoints safely and tell which family of norms their weights were trained with."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor

from ws_det.errors import InputError
from ws_det.fold import is_folded

# A filter trained with WS gets no gradient along its mean (arXiv:1903.10520, eq. 11), so the mean
# stays at its random start, where |mean| * sqrt(F) / std has a median of 0.67, or decays. Without
# WS the mean is trained, and the median grows with training.
_MEAN_RATIO = 1.0


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint to the CPU without running code from it.

    Args:
        path: A file written by ``torch.save``.

    Returns:
        What the file holds.

    Raises:
        InputError: If the file is missing, truncated, no checkpoint, or holds anything but
            tensors and plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}: give the path of an existing file")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch says on one of many lines why it refuses, on the others how to load it unsafely
        said = re.search(r"WeightsUnpickler error:\s*(.*)|(Trying to load .*)", str(error))
        reason = said.group(said.lastindex) if said else str(error).partition("\n")[0]
        raise InputError(
            f"{path} is no checkpoint or holds more than tensors and plain data "
            f"({reason.partition('. ')[0]}): give a file saved as a state dict"
        ) from None
    except (RuntimeError, EOFError, OSError, BadZipFile, ValueError, KeyError):
        raise InputError(f"{path} is truncated or no checkpoint: fetch or copy it again") from None
    if not isinstance(loaded, dict):
        raise InputError(f"{path} holds a {type(loaded).__name__}, not a checkpoint dict")
    return loaded


def state_dict_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The weights inside a checkpoint: under ``state_dict`` or ``model``, or the dict itself."""
    for key in ("state_dict", "model"):
        if isinstance(checkpoint.get(key), dict):
            return checkpoint[key]
    return checkpoint


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
