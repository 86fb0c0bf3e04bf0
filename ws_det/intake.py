"""Take up a run from a checkpoint without trusting it.

What a checkpoint says of a run only gives values to what the run that takes it up has already: a
number for a number, a tensor for a tensor of that shape. Settings stay those of the present run. So
nothing in it can put a string where a method was, name a file, or be as large as it likes.
"""

from __future__ import annotations

import copy
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import torch
from torch import nn

from ws_det.errors import InputError, warn
from ws_det.family import is_dense

_MOST = 10**9  # no run counts further
_EXACT = 2**53  # whole numbers above are not exact as a float
_SEEDS = 2**32  # of numpy
_BATCH = 4096  # images of a step; those that are past are counted off one by one


class Intake:
    """Takes values out of a checkpoint, and knows what it left there.

    Args:
        path: Of the checkpoint, for the messages.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.left: list[str] = []

    def refuse(self, name: str, given: Any, wanted: str) -> InputError:
        """The sentence for a value that does not fit."""
        return InputError(
            f"{self.path} is no checkpoint of this run, its {name} is {_word(given)} and not "
            f"{wanted}: resume from another, or start from its weights alone"
        )

    def tell(self) -> None:
        """Name what was left, in one line."""
        if self.left:
            names = ", ".join(self.left[:5]) + (", ..." if len(self.left) > 5 else "")
            warn(
                f"{len(self.left)} entries of {self.path} are left out, this run has its own or "
                f"no part that asks for them: {names}"
            )

    def leave(self, name: str, keys: Iterable[Any]) -> None:
        """Remember entries that are not taken."""
        self.left += [f"{name}.{_key(key)}" if name else _key(key) for key in keys]

    def table(self, given: Any, name: str) -> dict[Any, Any]:
        """A dict as it is."""
        if not isinstance(given, dict):
            raise self.refuse(name, given, "a dict")
        return given

    def listed(self, given: Any, name: str) -> list[Any]:
        """A list as it is."""
        if not isinstance(given, list):
            raise self.refuse(name, given, "a list")
        return given

    def count(self, given: Any, name: str, least: int = 0, most: int = _MOST) -> int:
        """A whole number from ``least`` to ``most``."""
        if type(given) is not int or not least <= given <= most:
            raise self.refuse(name, given, f"a whole number from {least} to {most}")
        return given

    def images(self, given: Any, steps: int, name: str) -> int:
        """Images, or batches of them, that were seen in some steps."""
        return self.count(given, name, most=min(_BATCH * max(steps, 1), _MOST))

    def seed(self, given: Any, name: str) -> int | None:
        """A seed of numpy, or None."""
        return None if given is None else self.count(given, name, most=_SEEDS - 1)

    def batch(self, given: Any, name: str) -> tuple[int, ...]:
        """Processes, images and passes."""
        if not isinstance(given, (list, tuple)) or len(given) != 3:
            raise self.refuse(name, given, "three whole numbers")
        return tuple(self.count(part, name, least=1, most=2**20) for part in given)

    def like(self, given: Any, own: Any, name: str) -> Any:
        """A value that may stand for the run's own: of that kind, and that structure.

        Flags and what is None here stay; one that the checkpoint lacks is of another version.

        Args:
            given: Of the checkpoint.
            own: What the run has in its place.
            name: Of the place.

        Raises:
            InputError: If it is of another kind, or another setting.
        """
        if isinstance(own, Counter):
            return Counter(self._whole_numbers(given, name))
        if isinstance(own, dict):
            given = self.table(given, name)
            self.leave(name, (key for key in given if key not in own))
            flags = {k: v for k, v in own.items() if v is None or isinstance(v, bool)}
            return {
                key: self.like({**flags, **given}.get(key), value, f"{name}.{_key(key)}")
                for key, value in own.items()
            }
        if isinstance(own, (list, tuple)):
            if not isinstance(given, (list, tuple)) or len(given) != len(own):
                raise self.refuse(name, given, f"a list of {len(own)}")
            parts = enumerate(zip(given, own, strict=True))
            return type(own)([self.like(*pair, f"{name}.{index}") for index, pair in parts])
        if isinstance(own, torch.Tensor):
            return self.tensor(given, own, name)
        if isinstance(own, str) and (type(given) is not str or given != own):
            raise self.refuse(name, given, f"{own!r} as here")
        if type(own) in (int, float):
            return self._number(given, own, name)
        if type(own) is not type(given) or own != given:
            self.leave("", [name])
        return own

    def tensor(self, given: Any, own: torch.Tensor, name: str) -> torch.Tensor:
        """A copy of a tensor that has the shape of the run's own."""
        if own.numel() == 1 and isinstance(given, (int, float)):  # a step of an older torch
            given = torch.tensor(self._number(given, None, name), dtype=own.dtype)
        if not is_dense(given) or given.shape != own.shape:
            raise self.refuse(name, given, f"numbers of shape {tuple(own.shape)}")
        if given.is_complex() or given.is_floating_point() != own.is_floating_point():
            raise self.refuse(name, given, f"numbers of {own.dtype}")
        if own.ndim == 0:
            self._number(given.item(), own.item(), name)
        # A copy: no two names for the same numbers, nor one for many.
        return given.detach().to(own.dtype, copy=True)

    def tensors(
        self, given: Any, own: Mapping[str, torch.Tensor], name: str
    ) -> dict[str, torch.Tensor]:
        """Those tensors by name that the run has too, each of its shape."""
        given = self.table(given, name)
        self.leave(name, (key for key in given if key not in own))
        return {
            key: self.tensor(value, own[key], f"{name}.{key}")
            for key, value in given.items()
            if key in own
        }

    def optimizer(self, given: Any, optimizer: torch.optim.Optimizer, name: str) -> dict[str, Any]:
        """The state of an optimizer, for ``load_state_dict``.

        What it keeps of a parameter is asked of the optimizer itself.
        """
        given, own = self.table(given, name), optimizer.state_dict()["param_groups"]
        groups = self.listed(given.get("param_groups"), f"{name}.param_groups")
        own = [_with_initial(*pair) for pair in zip(own, groups, strict=False)] + own[len(groups) :]
        groups = self.like(groups, own, f"{name}.param_groups")
        if [group["params"] for group in groups] != [group["params"] for group in own]:
            raise InputError(
                f"{self.path} is no checkpoint of this run, its {name} is for other parameters: "
                f"resume from another, or start from its weights alone"
            )
        state = self.table(given.get("state"), f"{name}.state")
        taken = {}
        for group, present in zip(own, optimizer.param_groups, strict=True):
            kept = _kept_of_a_parameter(optimizer, present)
            for number, parameter in zip(group["params"], present["params"], strict=True):
                if number in state:
                    place = f"{name}.state.{number}"
                    taken[number] = self._of_parameter(state[number], parameter, kept, place)
        self.leave(f"{name}.state", (key for key in state if key not in taken))
        return {"state": taken, "param_groups": groups}

    def scaler(self, given: Any, own: dict[str, Any], name: str) -> dict[str, Any]:
        """The state of a loss scale, if it is on in both runs."""
        is_off = not own or (isinstance(given, dict) and not given)
        taken = {} if is_off else self.like(given, own, name)
        if taken and not taken["scale"] > 0:
            raise self.refuse(f"{name}.scale", taken["scale"], "above 0")
        return taken

    def _of_parameter(
        self, given: Any, parameter: nn.Parameter, kept: dict[str, Any] | None, name: str
    ) -> dict[str, Any]:
        """What an optimizer keeps of one parameter."""
        given = {k: v for k, v in self.table(given, name).items() if v is not None}
        for key, value in given.items():
            if isinstance(value, torch.Tensor) and not is_dense(value):
                raise self.refuse(f"{name}.{_key(key)}", value, "numbers")
        if kept is None or not given:
            return given
        self.leave(name, (key for key in given if key not in kept))
        taken = {}
        for key, own in kept.items():
            if key not in given:
                raise self.refuse(f"{name}.{key}", None, "there")
            like = parameter if getattr(own, "shape", None) == _PROBE else own
            taken[key] = self.like(given[key], like, f"{name}.{key}")
        return taken

    def _number(self, given: Any, own: float | None, name: str) -> float:
        if type(given) not in (int, float) or not -_EXACT < given < _EXACT:
            far = type(given) is float and own is not None and not isfinite(own)
            if not far:  # the best of a metric begins at infinity
                raise self.refuse(name, given, "a number of a run")
        if own is not None and 0 <= own < _MOST and given < 0:
            raise self.refuse(name, given, "0 or more")
        return given

    def _whole_numbers(self, given: Any, name: str) -> dict[int, int]:
        counts = self.table(given, name)
        return {self.count(key, name): self.count(n, name) for key, n in counts.items()}


_PROBE = (2, 3)


def _with_initial(own: dict[str, Any], given: Any) -> dict[str, Any]:
    """A group with the first values of what is scheduled: a schedule may be made later."""
    names = [f"initial_{key}" for key, value in own.items() if type(value) in (int, float)]
    return {n: own[n[8:]] for n in names if isinstance(given, dict) and n in given} | own


def _kept_of_a_parameter(
    optimizer: torch.optim.Optimizer, group: dict[str, Any]
) -> dict[str, Any] | None:
    """What an optimizer has kept of a parameter after a step, shown by one of six zeros.

    Returns:
        None if it cannot be asked like this: somebody's own, or one whose sums depend on the shape.
    """
    parameter = nn.Parameter(torch.zeros(_PROBE))
    parameter.grad = torch.zeros(_PROBE)
    try:
        probe = copy.copy(optimizer)
        probe.state, probe.param_groups = defaultdict(dict), [{**group, "params": [parameter]}]
        type(probe).step(probe)
    except Exception:
        return None
    kept = dict(probe.state[parameter])
    sums = (v.shape for v in kept.values() if isinstance(v, torch.Tensor) and v.numel() > 1)
    return kept if all(shape == _PROBE for shape in sums) else None


def is_name(key: Any) -> bool:
    """Whether a key can be the name of a curve, which goes into pictures and logs."""
    return isinstance(key, str) and re.fullmatch(r"[\w./@:%+ -]{1,200}", key) is not None


def _key(key: Any) -> str:
    """A key for a message; anything can be one."""
    return key if isinstance(key, str) and len(key) < 80 else _word(key)


def _word(value: Any) -> str:
    """A value for a message, which may be as long or as deep as it likes."""
    if value is None:
        return "missing"
    if isinstance(value, (str, bytes)):
        return repr(value[:60])
    if isinstance(value, torch.Tensor) and not value.is_nested:
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    if type(value) is int and abs(value) > _EXACT:
        return f"a number of {value.bit_length()} bits"
    return repr(value) if type(value) in (bool, int, float) else f"a {type(value).__name__}"
