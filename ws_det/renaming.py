"""Load weights into a model with WS under whatever names they have, whoever loads them.

A framework loads what fits and logs the rest: a backbone whose weights have another project's
names would stay random, and its frozen stem for good. So a model with our layers looks at weights
itself, before torch or a framework takes them out one by one.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.nn.parameter import is_lazy

from ws_det import convert, fit
from ws_det.checkpoint import below, state_dict_of
from ws_det.errors import InputError, warn
from ws_det.fold import is_folded
from ws_det.formats import Converted, convert_state, recognize
from ws_det.layers import WeightStandardized
from ws_det.norms import BatchChannelNorm2d, EstBatchNorm2d

_PARTS = (WeightStandardized, EstBatchNorm2d, BatchChannelNorm2d)
_REMEDY = "give weights trained with WS"
_judged: WeakSet[nn.Module] = WeakSet()
_passed_on: list[Any] = []


class _Hooks(OrderedDict):
    """Hooks of a module before it loads; ours is left out of a pickle, which may do without us."""

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, ([item for item in self.items() if not _is_ours(item[1])],)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hooks:
        return _Hooks((key, copy.deepcopy(hook, memo)) for key, hook in self.items())


def take_other_names(module: nn.Module) -> None:
    """Let a module rename what it is given to load, if it is loaded as a whole.

    Args:
        module: Holds our layers; without any nothing is done.
    """
    hooks = vars(module).get("_load_state_dict_pre_hooks")
    if hooks is None or any(_is_ours(hook) for hook in hooks.values()):
        return
    if not hooks:  # a handle to a hook holds on to the dict that it is in
        # not by setattr, which a compiled model hands on to the one behind it
        vars(module)["_load_state_dict_pre_hooks"] = _Hooks()
    module._register_load_state_dict_pre_hook(_look, with_module=True)


def pass_on_to_parents() -> None:
    """Let every model that our layers are put into take other names too; twice is harmless.

    For frameworks, which build a model around them.
    """
    if not _passed_on:
        _passed_on.append(register_module_module_registration_hook(_pass_on))


def _pass_on(parent: nn.Module, name: str, child: nn.Module | None) -> None:
    hooks = vars(child).get("_load_state_dict_pre_hooks") if child is not None else None
    if isinstance(child, _PARTS) or any(_is_ours(hook) for hook in (hooks or {}).values()):
        take_other_names(parent)


def _is_ours(hook: Any) -> bool:
    return getattr(hook, "hook", None) is _look


def _look(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Torch's hook: ``state`` is a copy that may be changed, ``prefix`` that of the module."""
    if prefix or not any(isinstance(child, _PARTS) for child in module.modules()):
        return
    if not all(isinstance(key, str) for key in state):
        return
    named = [*module.named_parameters(remove_duplicate=False)]
    own = {key: value for key, value in named if not is_lazy(value)}
    if _count(own, state) < len(own):
        own |= module.named_buffers(remove_duplicate=False)
        _rename(own, state)
    if not (fit.is_checked() or is_folded(state) or _rank()):  # our layers refuse folded ones
        _judge(module, state)


def _rename(own: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Give weights the model's names in place, if more of them fit then."""
    given = state_dict_of(state)
    source, target = recognize(given), recognize(_unwrapped(own))
    converted: Converted | None = None
    if source and target and source is not target:
        try:
            converted = convert_state(given, target.name, source)
        except InputError as error:
            _tell(f"the weights are of {source.title} and cannot be renamed: {error}")
    renamed = state_dict_of(converted.state) if converted else given
    start = _start(own, renamed)
    if _count(own, renamed, start) <= _count(own, state):
        return
    if is_folded(given):
        raise InputError(
            "the weights are folded and would be standardized twice: load those from before folding"
        )
    placed = {start + key: value for key, value in renamed.items()}
    misfits = [key for key, value in placed.items() if key in own and not _fits(value, own[key])]
    for key in misfits:
        del placed[key]
    state.clear()
    state.update(placed)
    if converted:
        left = [*converted.unmatched, *converted.needless]
        _tell(
            f"the weights are of {source.title}, and {_count(own, placed)} of them are loaded "
            f"under the names of {target.title}{_listed(left, 'have no place there')}"
            f"{_listed(misfits, 'are of another shape')}; {'; '.join(converted.notes)}"
        )


def _unwrapped(own: Iterable[str]) -> list[str]:
    """Names without that of a module around the model, as DDP and torch.compile have one."""
    names = list(own)
    while recognize(names) is None:
        tops, _, rests = zip(*(name.partition(".") for name in names), strict=True)
        if len(set(tops)) > 1 or not all(rests):
            break
        names = list(rests)
    return names


def _start(own: dict[str, Tensor], state: dict[str, Any]) -> str:
    """Where in a model the weights of a part of it belong, "" where that is nowhere."""
    kernels = [key for key, value in state.items() if getattr(value, "ndim", 0) == 4]
    deepest = max(kernels, key=lambda key: key.count("."), default="")
    starts = {name[: -len(deepest)] for name in own if name.endswith(f".{deepest}")}
    return max(["", *sorted(starts)], key=lambda start: _count(own, state, start))


def _judge(module: nn.Module, state: dict[str, Any]) -> None:
    """Say what a framework does not: that hardly a kernel is found, or was trained without WS."""
    kernels = {
        f"{name}.weight" if name else "weight": child.weight
        for name, child in module.named_modules()
        if isinstance(child, WeightStandardized) and not is_lazy(child.weight)
    }
    found = [key for key, own in kernels.items() if _fits(state.get(key), own)]
    names = dict(module.named_parameters(remove_duplicate=False))
    strange = [
        key
        for key, value in state.items()
        if getattr(value, "ndim", 0) == 4 and not _fits(value, names.get(key))
    ]
    if strange and 2 * len(found) < len(kernels):
        _refuse_strange(kernels, found, strange)
    elif 4 * len(found) >= 3 * len(kernels) and kernels and module not in _judged:
        _judged.add(module)
        backbone = module._modules.get("backbone")
        inside = state if backbone is None else below(state, "backbone.")
        fit.check_family(backbone or module, inside, "the state dict", _REMEDY, force=True)


def _refuse_strange(kernels: dict[str, Tensor], found: list[str], strange: list[str]) -> None:
    lost = [key for key in kernels if key not in found]
    frozen = [key for key in lost if not kernels[key].requires_grad]
    fault = (
        f"{len(lost)} of {len(kernels)} kernels of WS convolutions (as {lost[0]}) are not in the "
        f"weights, which have {len(strange)} others (as {strange[0]})"
    )
    remedy = "bring the weights to the model's names with tools/convert_checkpoint.py"
    if frozen and not any(not kernels[key].requires_grad for key in found):
        raise InputError(
            f"{fault}, and {len(frozen)} of them are frozen and would stay random: {remedy}, or "
            f"freeze nothing"
        )
    warn(f"{fault}, and stay as they are: {remedy}")


def _count(own: dict[str, Tensor], state: dict[str, Any], start: str = "") -> int:
    return sum(_fits(value, own.get(start + key)) for key, value in state.items())


def _fits(value: Any, own: Tensor | None) -> bool:
    return isinstance(value, Tensor) and own is not None and value.shape == own.shape


def _listed(keys: list[str], what: str) -> str:
    return f", {len(keys)} {what} ({', '.join(keys[:3])}{', ...' * (len(keys) > 3)})" * bool(keys)


def _tell(sentence: str) -> None:
    if not fit.is_checked() and _rank() == 0:
        warn(sentence)


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


convert.after_conversion.append(take_other_names)
