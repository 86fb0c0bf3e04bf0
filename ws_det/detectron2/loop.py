"""What a config asks of the training loop, and whether the loop that runs does it.

Detectron2's own loops do not read ``SOLVER.ACCUMULATION_STEPS``, ``CLIP_GRAD_NORM`` and ``ON_NAN``
(in a LazyConfig ``train.accumulation_steps``, ``clip_grad`` and ``on_nan``). They would train on
without them, at a learning rate that is for as many images as were asked for. So the parts of a
model that are built from such a config look at the first steps of its optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from detectron2.config import CfgNode
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from ws_det.convert import convert_to_ws
from ws_det.errors import InputError, warn

# What AccumulatingTrainer does for an optimizer.
_done_for: WeakKeyDictionary[Optimizer, dict[str, Any]] = WeakKeyDictionary()
_open: list[_Watch] = []
_handles: list[Any] = []
_said: set[str] = set()


class _Watch:
    """Counts the backward passes of a model before its optimizer's first two steps.

    Two, for mixed precision leaves out first steps, whose passes would count for the next.
    """

    def __init__(self, parameter: nn.Parameter, asked: Mapping[str, Any]) -> None:
        self.asked, self.passes, self.steps = asked, 0, 0
        self.parameter = ref(parameter)
        self.handle = parameter.register_post_accumulate_grad_hook(self._count)

    def _count(self, parameter: torch.Tensor) -> None:
        self.passes += 1

    def is_stepped_by(self, optimizer: Optimizer) -> bool:
        """Whether the optimizer steps this model, after a backward pass."""
        mine = self.parameter()
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        return self.passes > 0 and any(mine is parameter for parameter in parameters)


def asks(cfg: CfgNode) -> dict[str, Any]:
    """What a yaml config asks of the loop, as the arguments of :func:`ask`."""
    return {
        "SOLVER.ACCUMULATION_STEPS": cfg.SOLVER.ACCUMULATION_STEPS,
        "SOLVER.CLIP_GRAD_NORM": cfg.SOLVER.CLIP_GRAD_NORM,
        "SOLVER.ON_NAN": cfg.SOLVER.ON_NAN,
    }


def convert_for_loop(
    module: nn.Module, train: Mapping[str, Any] | None = None, **ws_options: Any
) -> nn.Module:
    """``convert_to_ws`` for a LazyConfig, whose loop is looked at as that of a yaml config.

    ``L(convert_for_loop)(module=model, train="${oc.select:train,null}")``

    Args:
        module: The model.
        train: The config's ``train``.
        **ws_options: Of ``convert_to_ws``.

    Returns:
        ``module``.
    """
    train = train or {}
    asked = {
        "train.accumulation_steps": train.get("accumulation_steps", 1),
        "train.clip_grad": (train.get("clip_grad") or {}).get("max_norm"),
        "train.on_nan": train.get("on_nan", "stop"),
    }
    return ask(convert_to_ws(module, **ws_options), asked)


def ask(module: nn.Module, asked: Mapping[str, Any]) -> nn.Module:
    """Watch the first optimizer steps of a module for what its config asks of the loop.

    Args:
        module: With parameters that are trained.
        asked: By the name of the setting: passes of a step, bound of the gradient's norm, reaction
            to NaN, in this order.

    Returns:
        ``module``. An optimizer's step raises :class:`InputError` if there were fewer
        passes, and warns of the others if the loop is not ``AccumulatingTrainer``.
    """
    passes, norm, on_nan = asked.values()
    trained = [p for p in module.parameters() if p.requires_grad]
    if (passes > 1 or norm or on_nan != "stop") and trained:
        _open.append(_Watch(trained[-1], asked))
        if not _handles:
            _handles.append(register_optimizer_step_pre_hook(_at_step))
    return module


def promise(optimizer: Optimizer, **done: Any) -> None:
    """Say of a loop what it does for an optimizer: ``max_norm`` and ``guard``."""
    _done_for[optimizer] = done


def _at_step(optimizer: Optimizer, *_: Any) -> None:
    _open[:] = [watch for watch in _open if watch.parameter() is not None]
    for watch in [watch for watch in _open if watch.is_stepped_by(optimizer)]:
        passes, watch.passes = watch.passes, 0
        watch.steps += 1
        if watch.steps == 2:
            _open.remove(watch)
            watch.handle.remove()
        _check(watch.asked, passes, _done_for.get(optimizer, {}))


def _check(asked: Mapping[str, Any], passes: int, done: Mapping[str, Any]) -> None:
    (steps, wanted), (clip, norm), (nan, on_nan) = asked.items()
    if passes < wanted:
        raise InputError(
            f"{steps} is {wanted}, but this loop steps after {passes} backward pass, at a learning "
            f"rate for {wanted}: train with tools/train_detectron2.py, take "
            f"ws_det.detectron2.trainer.AccumulatingTrainer for the loop, or set it to 1 and "
            f"scale the learning rate"
        )
    if norm and not done.get("max_norm"):
        _say(
            f"{clip} is {norm}, which Detectron2's own loops do not read: the gradient is not "
            f"clipped unless your loop does it, by torch.nn.utils.clip_grad_norm_"
        )
    if on_nan != "stop" and not done.get("guard"):
        _say(
            f"{nan} is {on_nan!r}, which Detectron2's own loops do not read: they stop where a "
            f"loss is NaN, unless your loop has a ws_det.guard.NanGuard"
        )


def _say(sentence: str) -> None:
    """Once, whatever number of parts asks."""
    if sentence not in _said:
        _said.add(sentence)
        warn(sentence)
