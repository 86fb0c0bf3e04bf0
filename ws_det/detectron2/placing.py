"""Where the weights of a network alone belong in a detector, as Detectron2's heuristics have it.

A checkpoint asks for them with an entry ``matching_heuristics``, a reference to one with
``?matching_heuristics=True``. Detectron2's own function loses what is beside the tensors, as the
mark of folded kernels, and its loader loses the query where the model is in DDP.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any
from urllib.parse import parse_qs

from detectron2.modeling import Backbone
from torch import nn

from ws_det.errors import InputError


def split_query(reference: str) -> tuple[str, bool]:
    """A reference without its query, and whether that asks for matching by names.

    Raises:
        InputError: If it asks for something else.
    """
    path, _, query = reference.partition("?")
    asked = parse_qs(query, keep_blank_values=True)
    value = asked.pop("matching_heuristics", ["False"])
    if asked or value not in (["True"], ["False"]):
        raise InputError(
            f"the checkpoint {reference} has the query {query!r}: leave it out, or write "
            f"matching_heuristics=True, which is all that Detectron2 knows"
        )
    return path, value == ["True"]


def placed(state: dict[str, Any], model: nn.Module, path: str) -> dict[str, Any]:
    """Give each weight of the model the one whose name is the longest end of its own.

    Args:
        state: Weights of a network alone; its tensors may be in several parts of the model, as
            ``res5`` of a C4 detector is in its heads.
        model: The detector.
        path: Where they are from, for the message.

    Returns:
        The weights and their metadata under the model's names; what has no place, or another
        shape there, keeps its own name.

    Raises:
        InputError: If two weights of the model would be given the same one.
    """
    metadata = getattr(state, "_metadata", {})
    result, places = OrderedDict(), {}
    result._metadata = OrderedDict()
    for name, own in model.state_dict().items():
        key = _longest_end(name, state)
        if key is None or getattr(state[key], "shape", None) != own.shape:
            continue
        if key in places:
            raise InputError(
                f"{key} of {path} fits two places of the model, {places[key]} and {name}: give "
                f"weights with the model's own names, and no matching_heuristics"
            )
        result[name], places[key] = state[key], name
        prefix, parts = name[: -len(key)], key.split(".")
        for module in (".".join(parts[:end]) for end in range(1, len(parts))):
            if module in metadata:
                result._metadata[prefix + module] = metadata[module]
    result.update((key, value) for key, value in state.items() if key not in places)
    return result


def trunk(model: nn.Module) -> tuple[str, nn.Module]:
    """The network that pretrained weights are of: the innermost backbone, below FPNs and the like.

    Returns:
        Its prefix in the model's keys and itself; for a model without a backbone the model.
    """
    prefix, module = "", model
    children = [("backbone", getattr(model, "backbone", None))]
    while inner := next(((n, c) for n, c in children if isinstance(c, nn.Module)), None):
        prefix, module = f"{prefix}{inner[0]}.", inner[1]
        children = [(n, c) for n, c in module.named_children() if isinstance(c, Backbone)]
    return prefix, module


def is_pretrained(state: dict[str, Any], model: nn.Module) -> bool:
    """Whether weights, with the model's names, are of its network alone and not of a detector."""
    prefix, _ = trunk(model)
    places = (prefix, "roi_heads.res5.")  # where a C4 detector has the last stage
    own = model.state_dict().keys()
    return bool(prefix) and all(key.startswith(places) for key in state if key in own)


def _longest_end(name: str, state: dict[str, Any]) -> str | None:
    parts = name.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in state), None)
