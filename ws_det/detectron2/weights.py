"""Read checkpoints for Detectron2 without running code from them, those of MMDetection too."""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager

from ws_det.checkpoint import load_checkpoint, state_dict_of
from ws_det.detectron2 import keys
from ws_det.errors import InputError

_BACKBONE = "backbone.bottom_up."
_log = logging.getLogger("detectron2.ws_det")  # below the one that Detectron2 sets up


class SafeCheckpointer(DetectionCheckpointer):
    """DetectionCheckpointer that reads tensors and plain data only, and MMDetection's keys."""

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pkl"):
            return model_in(load_checkpoint(filename))
        return loaded_model(filename)


def local_file(reference: str) -> str:
    """The file behind a path, or behind a URL or catalog name that Detectron2 knows.

    Raises:
        InputError: If there is none, or it cannot be fetched.
    """
    try:
        path = PathManager.get_local_path(reference)
    except Exception as error:  # whatever the handler of the scheme raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the checkpoint {reference} cannot be fetched ({reason}): download it, and give its "
            f"path with train.init_checkpoint=FILE (in a yaml config MODEL.WEIGHTS FILE)"
        ) from None
    if not Path(path).is_file():
        raise InputError(f"no checkpoint at {reference}: give the path of an existing file")
    return path


def model_in(pickled: dict[str, Any]) -> dict[str, Any]:
    """What a ``.pkl`` holds, in Detectron2's form.

    Args:
        pickled: Of Detectron2's model zoo, of Detectron1 or of Caffe2, whose names Detectron2
            matches to its own.

    Returns:
        ``{"model": weights, "__author__": author, ...}``.
    """
    if "model" in pickled and "__author__" in pickled:
        return {**pickled, "model": state_dict_of(pickled)}
    blobs = state_dict_of({"model": pickled.get("blobs", pickled)})
    model = {k: v for k, v in blobs.items() if not k.endswith("_momentum")}
    return {"model": model, "__author__": "Caffe2", "matching_heuristics": True}


def loaded_model(path: str) -> dict[str, Any]:
    """Load a ``.pth`` and bring its weights under Detectron2's keys.

    Args:
        path: Of Detectron2, or of MMDetection: a backbone, or a detector, whose heads are left
            out.

    Returns:
        ``{"model": weights, ...}`` with all else that the file holds.

    Raises:
        InputError: If the file is missing, damaged, or holds more than tensors and plain data.
    """
    loaded = load_checkpoint(path)
    state = state_dict_of(loaded)
    if not keys.is_mmdet(state):
        rest = loaded if "model" in loaded else {}
        return {**rest, "model": state}
    if dropped := keys.left_over(state):
        _log.warning(
            f"{path} is of MMDetection: {len(dropped)} weights outside of backbone and FPN are not "
            f"loaded ({', '.join(dropped[:3])}, ...)"
        )
    state = keys.from_mmdet(state)
    if not any(key.startswith("backbone.") for key in state):
        state = OrderedDict((_BACKBONE + key, value) for key, value in state.items())
    return {"model": state}
