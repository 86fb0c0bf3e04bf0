"""Read checkpoints from files and URLs without running code from them."""

from __future__ import annotations

import json
from contextlib import nullcontext
from difflib import get_close_matches
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import mmengine
import torch
from mmengine.logging import print_log
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    get_deprecated_model_names,
    get_external_models,
)

from ws_det.checkpoint import load_checkpoint, state_dict_of
from ws_det.errors import InputError
from ws_det.formats import convert_state, recognize
from ws_det.mmdet.pickled import harmless


def load_safely(reference: str) -> dict[str, Any]:
    """Load a checkpoint named as in an MMEngine config, to the CPU, with ``weights_only``.

    MMEngine's training checkpoints also hold its log buffers and numpy arrays, which are let in.

    Args:
        reference: A path, or a URL as ``local_file`` takes it.

    Returns:
        What the file holds; weights of Detectron2 or of the WS authors with MMDetection's names.

    Raises:
        InputError: If it cannot be fetched, is damaged, or holds code, or if MMDetection has no
            place for some of the weights.
    """
    # Older than torch 2.5: only plain state dicts pass.
    safe_globals = getattr(torch.serialization, "safe_globals", nullcontext)
    with safe_globals(harmless()):
        checkpoint = load_checkpoint(local_file(reference))
    return _with_own_names(checkpoint, reference)


def peek_safely(path: str) -> dict[str, Any]:
    """What ``load_safely`` gives, with the tensors left in the file and all names as they are."""
    safe_globals = getattr(torch.serialization, "safe_globals", nullcontext)
    with safe_globals(harmless()):
        return load_checkpoint(path, mapped=True)


def use_safe_loader() -> None:
    """Let MMEngine read every checkpoint with ``load_safely`` from now on.

    Its own loader falls back to running the code in a file, and its loader for URLs starts there.
    """

    def load_safely_for_mmengine(filename: str, map_location: Any) -> dict[str, Any]:
        checkpoint = load_safely(filename)  # MMEngine moves the tensors while it copies them
        # It looks for weights under this name alone, and loads none without a word.
        return {"state_dict": state_dict_of(checkpoint), **checkpoint}

    for prefix in list(CheckpointLoader._schemes):
        CheckpointLoader.register_scheme(prefix, load_safely_for_mmengine, force=True)


def local_file(reference: str) -> Path:
    """The file behind a path or URL; a URL is fetched once into torch's hub folder.

    Args:
        reference: A path, or ``open-mmlab://``, ``torchvision://``, ``https://`` and a name.

    Raises:
        InputError: If the name is unknown or the download fails.
    """
    if "://" not in reference:
        return Path(reference).expanduser()
    url = _url(reference)
    file = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file))
        except (OSError, HTTPException) as error:
            raise InputError(
                f"{reference} could not be downloaded from {url} ({error}): fetch that file "
                f"elsewhere and pass it with --cfg-options model.backbone.init_cfg.checkpoint=FILE"
            ) from None
    return file


def _with_own_names(checkpoint: dict[str, Any], reference: str) -> dict[str, Any]:
    state = state_dict_of(checkpoint)
    source = recognize(state)
    # torchvision's ResNets have MMDetection's names already
    own = source is None or source.name == "mmdet"
    if own or (source.name == "torchvision" and "conv1.weight" in state):
        return checkpoint
    converted = convert_state(state, "mmdet", source)
    if converted.unmatched:
        raise InputError(
            f"{reference} is of {source.title}, and MMDetection has no place for "
            f"{len(converted.unmatched)} of its weights, as {converted.unmatched[0]}: leave them "
            f"out with tools/convert_checkpoint.py --to mmdet --force"
        )
    text = "\n".join(
        [f"{reference} is of {source.title}, its weights are renamed", *converted.notes]
    )
    print_log(text, logger="current")
    return {"state_dict": converted.state}


def _url(reference: str) -> str:
    scheme, _, name = reference.partition("://")
    if scheme in ("http", "https"):
        return reference
    if scheme in ("open-mmlab", "openmmlab"):
        known, renamed = get_external_models(), get_deprecated_model_names()
        name = renamed.get(name, name)
    elif scheme in ("torchvision", "modelzoo"):
        # The list that MMEngine carries: its function for it needs torchvision to import.
        hub = Path(mmengine.__file__).with_name("hub")
        known = json.loads((hub / "torchvision_0.12.json").read_text())
    else:
        raise InputError(
            f"{reference}: weights from {scheme}:// are not supported: give the path of a file"
        )
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0)
        raise InputError(f"{reference}: {scheme}:// has no {name!r}; did you mean {near[0]!r}?")
    return known[name]
