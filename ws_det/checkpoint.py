"""Read checkpoints without running code from them, and write them whole or not at all."""

from __future__ import annotations

import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from ws_det import arrays
from ws_det.errors import InputError, first_line
from ws_det.files import replacing

# Weights hardly compress and torch stores them as they are. A zip file that states more than this
# many times its own size, and more than a GiB, was made to fill the memory.
_INFLATION = 20
_GIB = 2**30


def load_checkpoint(path: str | Path, mapped: bool = False) -> dict[str, Any]:
    """Load a checkpoint to the CPU without running code from it.

    Args:
        path: A ``.npz`` or a ``.pkl`` of numpy arrays, or with any other name (``.pth``,
            ``.pth.tar``, ``.pt``) a file written by ``torch.save``.
        mapped: Leave the tensors in the file, if ``torch.save`` wrote it, and do not look at check
            sums: what is beside the tensors is then read from gigabytes in milliseconds.

    Returns:
        What the file holds, with tensors for arrays.

    Raises:
        InputError: If the file is missing, truncated, no checkpoint, or holds anything but
            tensors and plain data.
    """
    path = Path(path)
    if not os.path.isfile(path):  # Path's raises for a name that is too long
        raise InputError(f"no checkpoint at {path}: give the path of an existing file")
    try:
        loaded = _read(path, mapped)
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): give it to this user"
        ) from None
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is no checkpoint or holds more than tensors and plain data "
            f"({_reason(error)}): give a file saved as a state dict"
        ) from None
    except Exception as error:  # damaged bytes make a reader raise anything
        raise InputError(
            f"{path} is truncated or no checkpoint ({_reason(error)}): fetch or copy it again"
        ) from None
    if not isinstance(loaded, dict):
        raise InputError(f"{path} holds a {type(loaded).__name__}, not a checkpoint dict")
    return loaded


def save_checkpoint(content: dict[str, Any], path: str | Path) -> None:
    """Save a checkpoint so that at any moment the old file is there, or the new one, complete.

    Args:
        content: What ``torch.save`` takes.
        path: Of the file; a folder that is not there is made.

    Raises:
        InputError: If it cannot be written, see ``files.replacing``.
    """
    with replacing(path) as file:
        torch.save(content, file)


def state_dict_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The weights inside a checkpoint: under ``state_dict`` or ``model``, or the dict itself.

    Weights saved from inside DDP come without its prefix.

    Args:
        checkpoint: As ``load_checkpoint`` returns it.

    Returns:
        Tensors by name, with their metadata.

    Raises:
        InputError: If a key is no string, or the metadata are none.
    """
    inner = (checkpoint.get(key) for key in ("state_dict", "model"))
    state = next((found for found in inner if isinstance(found, dict)), checkpoint)
    for key in state:
        if not isinstance(key, str):
            raise InputError(
                f"the checkpoint has a weight named {key!r}, which is no string: give a file saved "
                f"as a state dict"
            )
    metadata = getattr(state, "_metadata", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(name, str) and isinstance(entry, dict) for name, entry in metadata.items()
    ):
        raise InputError(
            "the checkpoint's metadata are not those of modules by name: give a file saved as a "
            "state dict"
        )
    wrapped = all(key.startswith("module.") for key in state)
    return below(state, "module.") if wrapped else state


def below(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose key starts with ``prefix``, without it, and their metadata."""
    metadata = getattr(state, "_metadata", {})
    found = OrderedDict((k[len(prefix) :], v) for k, v in state.items() if k.startswith(prefix))
    found._metadata = {
        k[len(prefix) :]: v for k, v in metadata.items() if f"{k}.".startswith(prefix)
    }
    return found


def _read(path: Path, mapped: bool) -> Any:
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if zipped:
        _check_archive(path, sums=not mapped)
    if path.suffix == ".npz":
        return arrays.read_npz(path)
    if path.suffix in (".pkl", ".pickle") and not zipped:
        return arrays.read_pickle(path)
    return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mapped and zipped)


def _check_archive(path: Path, sums: bool) -> None:
    """Check the sizes that a zip file states, and its check sums, which torch does not look at."""
    with ZipFile(path) as archive:
        entries = archive.infolist()
        stated = sum(entry.file_size for entry in entries)
        if stated > max(_GIB, _INFLATION * path.stat().st_size):
            raise InputError(
                f"{path} states {stated:,} bytes in a file of {path.stat().st_size:,}: it was made "
                f"to fill the memory, use another"
            )
        for entry in entries if sums else ():
            if entry.CRC:  # torch.serialization.set_crc32_options(False) leaves 0
                with archive.open(entry) as file:
                    while file.read(_GIB // 1024):
                        pass


def _reason(error: Exception) -> str:
    # torch says on one of many lines why it refuses, on the others how to load it unsafely
    said = re.search(r"WeightsUnpickler error:\s*(.*)|(Trying to load .*)", str(error))
    reason = said.group(said.lastindex) if said else first_line(error)
    return reason.partition(". ")[0][:150]
