"""Read checkpoints for Detectron2 without running code from them, those of others too."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import nn

from ws_det import fit
from ws_det.checkpoint import load_checkpoint, save_checkpoint, state_dict_of
from ws_det.detectron2.intake import admit
from ws_det.detectron2.placing import placed, split_query
from ws_det.detectron2.trainer import AccumulatingTrainer
from ws_det.errors import InputError, first_line
from ws_det.files import remove_parts, write_text
from ws_det.formats import FORMATS, Format, convert_state, recognize
from ws_det.formats.files import with_prefix
from ws_det.recovery import POINTER, newest_whole, next_run, pointed

_BACKBONE = "backbone.bottom_up."
_OWN = FORMATS["detectron2"]
_log = logging.getLogger("detectron2.ws_det")  # below the one that Detectron2 sets up


class SafeCheckpointer(DetectionCheckpointer):
    """DetectionCheckpointer that reads tensors and plain data only, and others' keys.

    The checkpoint of a run it takes up only as far as it fits, see ``intake``.
    """

    _resumes = _by_names = False

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights, and the state of the run unless ``checkpointables`` is empty.

        Raises:
            InputError: If the checkpoint is not of this run.
        """
        trainer = self.checkpointables.get("trainer")
        self._resumes = checkpointables is None and isinstance(trainer, AccumulatingTrainer)
        path, self._by_names = split_query(path or "")
        try:
            with fit.checked():  # what did not fit was refused, or --force is given
                return super().load(path, checkpointables)
        except InputError:
            raise
        except Exception as error:  # what does not fit makes Detectron2 and torch raise anything
            if not self._resumes:
                raise
            raise InputError(
                f"{path} is no checkpoint of this run ({first_line(error)}): resume from another, "
                f"or start from its weights alone"
            ) from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pkl"):
            pickled = model_in(load_checkpoint(filename))
            return pickled | ({"matching_heuristics": True} if self._by_names else {})
        loaded = loaded_model(filename, self.model, by_names=self._by_names)
        return admit(loaded, filename, self.checkpointables["trainer"]) if self._resumes else loaded

    def save(self, name: str, **kwargs: Any) -> None:
        """Save as Detectron2 does, but beside and renamed; a full disk is one sentence."""
        if not self.save_dir or not self.save_to_disk:
            return
        parts = {key: part.state_dict() for key, part in self.checkpointables.items()}
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        save_checkpoint({"model": self.model.state_dict(), **parts, **kwargs}, path)
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the newest checkpoint, completely or not at all."""
        write_text(Path(self.save_dir, POINTER), last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Whether there is one to resume from."""
        return pointed(Path(self.save_dir, POINTER)) is not None

    def get_checkpoint_file(self) -> str:
        """The newest, beside the file that names it, whatever folder that names."""
        name = pointed(Path(self.save_dir, POINTER))
        return str(Path(self.save_dir, name)) if name else ""


def resume_point(folder: str) -> str | None:
    """The newest whole checkpoint of the run in a folder, which Detectron2 then resumes from.

    ``last_checkpoint`` is made to name it, and what a killed run left half written is removed.

    Raises:
        InputError: If there are checkpoints, and none is whole.
    """
    pointer = Path(folder, POINTER)
    found = newest_whole(
        pointer, _checkpoints(folder), load_checkpoint, _iteration_of, _peek, _run_of
    )
    if found is None:
        return None
    remove_parts(folder)
    write_text(pointer, found.path.name)
    return str(found.path)


def next_run_in(folder: str) -> int:
    """The number of a run that begins anew in a folder, see ``recovery.next_run``."""
    return next_run(_checkpoints(folder), _peek, _run_of)


_peek = partial(load_checkpoint, mapped=True)


def _checkpoints(folder: str) -> list[Path]:
    return list(Path(folder).glob("model_*.pth"))


def _iteration_of(checkpoint: dict[str, Any]) -> Any:
    return checkpoint.get("iteration")


def _run_of(checkpoint: dict[str, Any]) -> Any:
    progress = checkpoint.get("progress")
    return progress.get("run") if isinstance(progress, dict) else None


def local_file(reference: str) -> str:
    """The file behind a path, or behind a URL or catalog name that Detectron2 knows.

    Raises:
        InputError: If there is none, or it cannot be fetched.
    """
    try:
        path = PathManager.get_local_path(split_query(reference)[0])
    except InputError:
        raise
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


def loaded_model(
    path: str, model: nn.Module | None = None, *, by_names: bool = False
) -> dict[str, Any]:
    """Load a ``.pth`` and bring its weights under Detectron2's keys.

    Args:
        path: Of Detectron2, or of a format that ``ws_det.formats`` knows: a backbone or a detector.
        model: Where the weights of a backbone alone find their place; without one that is where
            detectors with FPN have it.
        by_names: Match the names to the model's even if the file does not ask for it.

    Returns:
        ``{"model": weights, ...}`` with all else that the file holds.

    Raises:
        InputError: If the file is missing, damaged, or holds more than tensors and plain data, or
            Detectron2 has no such network.
    """
    loaded = load_checkpoint(path)
    if isinstance(trained := loaded.get("model_state"), dict):  # of pycls, which made the RegNets
        kept = {key: value for key, value in trained.items() if "num_batches_tracked" not in key}
        loaded = {"model": kept, "matching_heuristics": True}
    state = state_dict_of(loaded)
    rest = dict(loaded) if "model" in loaded else {}
    found = recognize(state)
    by_names |= rest.pop("matching_heuristics", False) is True
    if found not in (None, _OWN):
        state, rest = _converted(state, found, path), {}
        by_names |= not any(key.startswith("backbone.") for key in state)
    if by_names and model is not None:
        state = placed(state, model, path)
    elif by_names and not any(key.startswith("backbone.") for key in state):
        state = with_prefix(state, _BACKBONE)
    return {**rest, "model": state}


def _converted(state: dict[str, Any], source: Format, path: str) -> dict[str, Any]:
    converted = convert_state(state, _OWN.name, source)
    _log.info(f"{path} is of {source.title}, and its weights are given Detectron2's names")
    for note in converted.notes:
        _log.info(note)
    if dropped := [*converted.unmatched, *converted.needless]:
        _log.warning(
            f"{len(dropped)} weights of {path} have no place in Detectron2 and are not loaded "
            f"({', '.join(dropped[:3])}{', ...' if len(dropped) > 3 else ''})"
        )
    return converted.state
