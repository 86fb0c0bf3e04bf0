"""Read numpy's files, ``.pkl`` and ``.npz``, as tensors and without running code from them."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ws_det.errors import InputError


def read_pickle(path: Path) -> Any:
    """Read a pickle of arrays in dicts, as Detectron2's model zoo and Caffe2 have them.

    Args:
        path: Of the file.

    Returns:
        What it holds, with tensors for arrays.

    Raises:
        pickle.UnpicklingError: If it needs anything but arrays and plain data. Damaged bytes raise
            all kinds of errors.
        InputError: If numpy is missing.
    """
    _numpy(path)
    # From memory, where a stated length can at most take what is there.
    content = io.BytesIO(path.read_bytes())
    return _tensors(loaded(_ArraysOnly(content, encoding="latin1")))


def loaded(unpickler: Any) -> Any:
    """What a pickle holds.

    Raises:
        EOFError: If it is cut, which ``pickle`` says in the words that it has for malicious files.
    """
    try:
        return unpickler.load()
    except pickle.UnpicklingError as error:
        if "exhausted" in str(error) or "truncated" in str(error):
            raise EOFError(str(error)) from None
        raise


def read_npz(path: Path) -> dict[str, Any]:
    """Read all arrays of an ``.npz`` archive.

    Args:
        path: Of the file.

    Returns:
        Tensors by name.

    Raises:
        pickle.UnpicklingError: If an array is one of Python objects, which are pickled.
        ValueError: If it is no archive of arrays, as other errors for damaged bytes.
        InputError: If numpy is missing.
    """
    np = _numpy(path)
    with np.load(path, allow_pickle=False) as archive:
        try:
            return _tensors({name: archive[name] for name in archive.files})
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            raise pickle.UnpicklingError("it has an array of objects") from None


def _numpy(path: Path) -> Any:
    try:
        import numpy
    except ImportError as error:
        raise InputError(f"{path} needs numpy to be read ({error}): install numpy") from None
    return numpy


def _tensors(content: Any, depth: int = 2) -> Any:
    """Arrays as tensors, in dicts in a dict as well."""
    import numpy as np

    if isinstance(content, dict) and depth:
        return type(content)((key, _tensors(value, depth - 1)) for key, value in content.items())
    if not isinstance(content, np.ndarray):
        return content
    if content.dtype.kind not in _NUMBERS:
        return content.tolist()
    native = content.astype(content.dtype.newbyteorder("="), order="C")  # writable, a copy
    return torch.from_numpy(native)


# The pure Python class: the memo of the C class takes memory for the highest number in a file.
class _ArraysOnly(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # numpy 1 and numpy 2 write different module names, and either may be read by the other
        known = _GLOBALS.get((module.partition(".")[0], name))
        if known is None:
            raise pickle.UnpicklingError(f"it needs {module}.{name}")
        return known

    def load_build(self) -> None:
        """Set the state of arrays only as numpy writes it: a false one can break numpy itself."""
        import numpy as np

        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, np.dtype):
            if state[1] == ">":
                raise pickle.UnpicklingError("its numbers have the other byte order")
        elif isinstance(made, np.ndarray):
            _, shape, dtype, fortran, raw = state
            if not isinstance(dtype, np.dtype) or not isinstance(raw, (bytes, str)):
                raise pickle.UnpicklingError("it has an array of objects")
            made.__setstate__((1, shape, dtype, bool(fortran), raw))
        elif isinstance(made, OrderedDict):
            vars(made).update(state)  # the metadata of a state dict
        else:
            raise pickle.UnpicklingError(f"it sets the state of a {type(made).__name__}")

    dispatch = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}  # noqa: RUF012


_NUMBERS = "biufc"


def _reconstruct(*_: Any) -> Any:
    import numpy as np

    return np.empty(0)  # load_build makes it what it is


def _dtype(name: str, *_: Any) -> Any:
    import numpy as np

    dtype = np.dtype(name)
    if dtype.kind not in _NUMBERS:
        raise pickle.UnpicklingError(f"it has an array of {name!r}")
    return dtype


def _frombuffer(buffer: bytes, dtype: Any, shape: Any, order: str, *_: Any) -> Any:
    import numpy as np

    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _scalar(dtype: Any, raw: bytes | str) -> Any:
    import numpy as np

    return np.frombuffer(_encode(raw, "latin1"), dtype).item()


def _encode(text: bytes | str, encoding: str) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    return text if isinstance(text, bytes) else text.encode("latin1")


def _no_bytes(*_: Any) -> bytes:
    """The same for empty bytes."""
    return b""


def _name_only(*_: Any) -> None:
    raise pickle.UnpicklingError("it makes an array by hand")


_GLOBALS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "_reconstruct"): _reconstruct,
    ("numpy", "_frombuffer"): _frombuffer,
    ("numpy", "scalar"): _scalar,
    ("numpy", "ndarray"): _name_only,
    ("numpy", "dtype"): _dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
}
