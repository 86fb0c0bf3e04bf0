"""The checkpoint around a state dict, as the loaders of each project expect it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from ws_det.formats.spec import Format, State


def checkpoint_of(state: State, target: Format) -> dict[str, Any]:
    """A checkpoint with a converted state dict.

    Args:
        state: In the format.
        target: The format.

    Returns:
        What ``torch.save`` is to write.
    """
    detector = any(key.removeprefix(target.prefix).startswith("backbone.") for key in state)
    if target.name == "mmdet":
        return {"meta": {}, "state_dict": state}
    if target.name == "detectron2":
        # the names of a backbone alone are matched to those below backbone.bottom_up
        return {"model": state, "__author__": "ws_det", "matching_heuristics": not detector}
    if target.name == "jhu":
        return {"model" if detector else "state_dict": state}
    return state


def with_prefix(state: dict[str, Any], prefix: str) -> State:
    """A state dict, with its metadata, as that of a part of a larger network."""
    result = OrderedDict((prefix + key, value) for key, value in state.items())
    metadata = getattr(state, "_metadata", {})
    result._metadata = OrderedDict((prefix + module, entry) for module, entry in metadata.items())
    return result
