"""Rows of predictors, which not all formats have in the same order. States are changed in place."""

from __future__ import annotations

import torch

from ws_det.errors import InputError
from ws_det.formats.spec import State

_RATIOS = 3  # of anchors, in the RetinaNets of all formats; the scales are what is left
_NEVER = -100.0  # a logit whose sigmoid is 0


def background_to_end(state: State) -> None:
    """Move the background from the first class to the last, where it has no box and no mask."""
    for key in _parameters(state, "box.cls"):
        state[key] = torch.cat([state[key][1:], state[key][:1]])
    for name, rows in (("box.reg", 4), ("mask.predictor", 1)):
        for key in _parameters(state, name):
            state[key] = state[key][rows:].clone()


def background_to_front(state: State) -> None:
    """The reverse. The background gets a box and a mask of zeros, which nothing reads.

    Raises:
        InputError: If the masks are not of the classes, as where one serves all.
    """
    classes = {len(state[key]) - 1 for key in _parameters(state, "box.cls")}
    masks = {len(state[key]) for key in _parameters(state, "mask.predictor")}
    if classes and masks and classes != masks:
        raise InputError(
            f"a mask head for {sorted(masks)} of {sorted(classes)} classes has no counterpart "
            f"there: convert to MMDetection or Detectron2"
        )
    for key in _parameters(state, "box.cls"):
        state[key] = torch.cat([state[key][-1:], state[key][:-1]])
    for name, rows in (("box.reg", 4), ("mask.predictor", 1)):
        for key in _parameters(state, name):
            old = state[key]
            state[key] = torch.cat([old.new_zeros(rows, *old.shape[1:]), old])


def swap_anchor_order(state: State, from_ratios: bool) -> None:
    """Sort the anchors of RetinaNet's predictors.

    Args:
        state: With canonical names.
        from_ratios: From ratio, then scale, to scale, then ratio; else the other way.

    Raises:
        InputError: If they are not of three ratios.
    """
    anchors = _anchors(state)
    for name in ("retina.cls", "retina.reg"):
        for key in _parameters(state, name):
            if anchors % _RATIOS:
                raise InputError(
                    f"{anchors} anchors a cell in {key} are not of {_RATIOS} ratios: only such can "
                    f"be sorted"
                )
            scales = anchors // _RATIOS
            cells = (_RATIOS, scales) if from_ratios else (scales, _RATIOS)
            rows = state[key].unflatten(0, (*cells, -1))
            state[key] = rows.transpose(0, 1).flatten(0, 2).contiguous()


def drop_background_class(state: State) -> None:
    """Drop the first class of every anchor of RetinaNet's predictor."""
    anchors = _anchors(state)
    for key in _parameters(state, "retina.cls"):
        state[key] = state[key].unflatten(0, (anchors, -1))[:, 1:].flatten(0, 1).clone()


def add_background_class(state: State) -> None:
    """The reverse, a class that is never predicted."""
    anchors = _anchors(state)
    for key in _parameters(state, "retina.cls"):
        old = state[key].unflatten(0, (anchors, -1))
        value = _NEVER if key.endswith("bias") else 0.0
        new = old.new_full((anchors, 1, *old.shape[2:]), value)
        state[key] = torch.cat([new, old], dim=1).flatten(0, 1)


def _parameters(state: State, name: str) -> list[str]:
    return [key for key in (f"{name}.weight", f"{name}.bias") if key in state]


def _anchors(state: State) -> int:
    """How many anchors a cell of RetinaNet has, 0 if there are no predictors.

    Raises:
        InputError: If the numbers of outputs do not tell.
    """
    sizes = {
        name: {len(state[key]) for key in _parameters(state, name)}
        for name in ("retina.cls", "retina.reg")
    }
    if not any(sizes.values()):
        return 0
    anchors = min(sizes["retina.reg"], default=0) // 4
    fits = anchors and sizes["retina.reg"] == {4 * anchors}
    if not fits or any(size % anchors for size in sizes["retina.cls"]):
        raise InputError(
            f"RetinaNet's predictors have {sorted(sizes['retina.cls'])} and "
            f"{sorted(sizes['retina.reg'])} outputs, which belong to no number of anchors: give "
            f"the whole checkpoint"
        )
    return anchors
