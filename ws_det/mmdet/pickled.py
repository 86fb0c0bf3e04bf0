"""What MMEngine's checkpoints hold besides tensors, made of plain data instead of as a file says.

numpy's and MMEngine's own constructors take any state from a file: one that is false breaks numpy
itself, or puts other functions behind the statistics of every log in the process.
"""

from __future__ import annotations

import math
import re
from pickle import UnpicklingError
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer

_STATISTICS = ("min", "max", "mean", "current")


def harmless() -> list[tuple[Any, str]]:
    """For ``torch.serialization.safe_globals``: what stands for which name in a file."""
    buffer = f"{HistoryBuffer.__module__}.HistoryBuffer"
    # numpy 1 and numpy 2 write different names, and either may be read by the other.
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    return [
        (_History, buffer),
        (_Array, "numpy.ndarray"),
        (_DType, "numpy.dtype"),
        (_statistic, "builtins.getattr"),
        *((_reconstruct, f"{module}._reconstruct") for module in modules),
        *((_scalar, f"{module}.scalar") for module in modules),
    ]


class _DType:
    """A kind of numbers."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[biuf]\d{1,2}", name):
            raise UnpicklingError(f"it has an array of {name!r:.60}")
        self.value = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] == ">":
            raise UnpicklingError("its numbers have the other byte order")


class _Array(np.ndarray):
    """An array of numbers that are in the file; it is saved as any other."""

    def __new__(cls, *_: Any) -> _Array:
        return super().__new__(cls, 0)  # whatever size a file asks for

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _DType) or not isinstance(raw, bytes):
            raise UnpicklingError("it has an array of objects")
        sizes = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not sizes or math.prod(shape) * dtype.value.itemsize != len(raw):
            raise UnpicklingError("it has an array of another size than it says")
        super().__setstate__((1, shape, dtype.value, bool(fortran), raw))

    def __reduce__(self) -> Any:
        return self.view(np.ndarray).__reduce__()


class _History(HistoryBuffer):
    """Becomes MMEngine's log buffer when it gets its two arrays."""

    def __init__(self, *_: Any) -> None:
        self._log_history = self._count_history = np.array([])

    def __setstate__(self, state: dict[str, Any]) -> None:
        log, count = (np.array(state[key]) for key in ("_log_history", "_count_history"))
        most = state["max_length"]
        if log.ndim != 1 or {log.dtype.kind, count.dtype.kind} - set("biuf") or log.size > most:
            raise UnpicklingError("it has a log that is none")
        self.__class__ = HistoryBuffer
        self.__init__(log, count, most)


def _reconstruct(*_: Any) -> _Array:
    return _Array()  # its state makes it what it is


def _scalar(dtype: Any, raw: Any) -> Any:
    if not isinstance(dtype, _DType) or not isinstance(raw, bytes):
        raise UnpicklingError("it has a number that is an object")
    return np.frombuffer(raw, dtype.value).item()


def _statistic(owner: Any, name: str) -> str:
    """The only ``getattr`` in such a checkpoint: a log buffer's statistics, which it has anyway."""
    if owner is not _History or name not in _STATISTICS:
        raise UnpicklingError(f"it reads {name!r:.60} of {owner!r:.60}")
    return name
