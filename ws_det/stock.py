"""Which models can be folded for a framework to run without ws_det, and whether it does."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

from torch import nn

from ws_det import norm_fold
from ws_det.errors import InputError, first_line
from ws_det.fold import is_folded
from ws_det.layers import WeightStandardized


def refuse_folded(state_dict: dict[str, Any], path: str) -> None:
    """Refuse weights that are folded already.

    Raises:
        InputError: If they are.
    """
    if is_folded(state_dict):
        raise InputError(
            f"{path} is folded already: use it as it is, or give the checkpoint from before"
        )


def check_foldable(model: nn.Module, config: str) -> None:
    """Check that there is something to fold, and nothing that no framework has.

    Raises:
        InputError: If there is no WS convolution and no EstBN, or if there is BCN.
    """
    if norm_fold.bcns(model):
        raise InputError(
            f"the config {config} has BCN, which no layer of the framework computes when folded: "
            f"export it with tools/export_onnx.py, or use ws_det.fold_ws(model, bcn=True)"
        )
    ws = any(isinstance(m, WeightStandardized) for m in model.modules())
    if not ws and not norm_fold.est_bns(model):
        raise InputError(
            f"the config {config} has no WS convolution: its checkpoint needs no folding"
        )


def check_equal(folded: nn.Module, build: Callable[[], nn.Module], state: dict[str, Any]) -> None:
    """Check that the framework's own model takes the folded weights and computes the same.

    Args:
        folded: The folded model.
        build: Gives what the framework builds without ws_det.
        state: The weights to be saved.

    Raises:
        InputError: If the weights do not fit, or a layer has other options, as a GN other groups.
    """
    try:
        stock = build()
        stock.load_state_dict(state)
        reason = _difference(folded, stock)
    except (InputError, RuntimeError) as error:
        reason = first_line(error.__cause__ or error)
    if reason:
        raise InputError(
            f"the framework builds another model without ws_det ({reason}): use "
            f"ws_det.fold_ws(model) and export it"
        )


def _difference(folded: nn.Module, stock: nn.Module) -> str | None:
    # A printed model has every layer with its options, below a line for each container.
    layers = (
        [_layer(line) for line in str(model).splitlines() if not line.endswith("(")]
        for model in (folded, stock)
    )
    pairs = zip_longest(*layers, fillvalue="none")
    return next((f"{a} is {b} there" for a, b in pairs if a != b), None)


def _layer(line: str) -> str:
    """A line of a printed model without its name, which EstBN has of its own."""
    name, colon, layer = line.strip().partition("): ")
    return layer if colon and name.startswith("(") else line.strip()
