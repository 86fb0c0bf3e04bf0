"""Predictions as MMDetection and Detectron2 save them, read without running code from them."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ws_det.arrays import loaded
from ws_det.errors import InputError, first_line
from ws_det.evaluation.classes import ids_of_labels, warn_of_fewer
from ws_det.evaluation.detections import check_labels, coco_results
from ws_det.evaluation.inputs import read_truth

Found = dict[str, list[dict[str, Any]]]
_Labels = Callable[[Sequence[Any], Sequence[int]], list[Any]]


class Saved(NamedTuple):
    """What a framework saved.

    Attributes:
        found: The path of COCO results, or they by kind, an image that is there twice once.
        categories: Ids of those that the detector knows, if it does not know all.
    """

    found: Path | Found
    categories: list[Any] | None = None


def read_saved(path: str | Path, annotations: str | Path) -> Path | Found:
    """The ``found`` of ``load_saved``."""
    return load_saved(path, annotations).found


def load_saved(
    path: str | Path, annotations: str | Path, classes: Sequence[str] | None = None
) -> Saved:
    """COCO results from what a framework saved.

    Args:
        path: A ``.json`` of COCO results, which is left to ``evaluate``; a ``.pkl`` written by
            MMDetection's ``--out``; or the ``instances_predictions.pth`` of Detectron2.
        annotations: Their annotation file, which has the category ids of the labels.
        classes: The detector's, in the order of its labels. By default those that the file
            names, as ``tools/test.py`` and ``CocoTwelveEvaluator`` write it, else all categories.

    Raises:
        InputError: If the file is missing, damaged, holds anything else, or if its classes are
            not those of the annotation file.
    """
    path = Path(path)
    readers = {".pkl": _mmdet, ".pickle": _mmdet, ".pth": _detectron2}
    if path.suffix == ".json":
        if classes:
            raise InputError(f"--classes are of labels, {path} has category ids: leave them out")
        return Saved(path)
    if path.suffix not in readers:
        raise InputError(
            f"the predictions {path} end in none of .json, .pkl and .pth: give what MMDetection or "
            f"Detectron2 wrote"
        )
    if not path.is_file():
        raise InputError(f"the predictions {path} do not exist: give the path of an existing file")
    categories = read_truth(annotations).content["categories"]
    known: list[Any] = []

    def ids(images: Sequence[Any], labels: Sequence[int]) -> list[Any]:
        in_order = categories
        if path.suffix == ".pth":  # Detectron2's labels are in the order of the ids
            in_order = sorted(categories, key=lambda category: category["id"])
        names = classes or _names(images)
        if names is None:
            warn_of_fewer(path, max(labels, default=-1), len(categories), annotations)
        known[:] = ids_of_labels(in_order, names, annotations)
        return known

    try:
        found = readers[path.suffix](path, ids)
        return Saved(found, known if len(known) < len(categories) else None)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(
            f"the predictions {path} hold more than detections ({first_line(error)[:100]}): give "
            f"COCO results in JSON"
        ) from None
    except IndexError:
        raise InputError(
            f"the predictions {path} have more classes than the {len(known)} of "
            f"{'--classes' if classes else annotations}: give the annotation file that they were "
            f"made for"
        ) from None
    except Exception as error:  # damaged bytes make a reader raise anything
        raise InputError(
            f"the predictions {path} are truncated or no detections "
            f"({type(error).__name__}: {first_line(error)[:100]}): write them again"
        ) from None


def _mmdet(path: Path, ids: _Labels) -> Found:
    """A list of images."""
    saved = _listed(_Detections.read(path))
    images = {image["img_id"]: image["pred_instances"] for image in saved}
    labels = [label for found in images.values() for label in found["labels"].tolist()]
    known = ids(saved, labels)
    return _together(coco_results(i, found, known) for i, found in images.items())


def _detectron2(path: Path, ids: _Labels) -> Found:
    """A list of images."""
    saved = _listed(_load(path))
    images = {image["image_id"]: _listed(image["instances"]) for image in saved}
    detections = [detection for image in images.values() for detection in image]
    labels = check_labels([detection["category_id"] for detection in detections])
    known = ids(saved, labels)
    found = [{**d, "category_id": known[label]} for d, label in zip(detections, labels)]
    masks = any("segmentation" in detection for detection in found)
    return dict.fromkeys(("bbox", "segm") if masks else ("bbox",), found)


def _names(images: Sequence[Any]) -> list[str] | None:
    """The classes that the file names, the same for all of its images."""
    names = images[0].get("classes") if images else None
    if names is not None and not all(isinstance(name, str) for name in names):
        raise TypeError("classes that are no names")
    return None if names is None else list(names)


def _listed(content: Any) -> list[Any]:
    """A list as it is; a tensor may have rows by the million that no file holds."""
    if not isinstance(content, list):
        raise TypeError(f"a {type(content).__name__} for a list")
    return content


def _together(images: Any) -> dict[str, list[dict[str, Any]]]:
    together: dict[str, list[dict[str, Any]]] = {"bbox": []}
    for by_kind in images:
        for kind, found in by_kind.items():
            together.setdefault(kind, []).extend(found)
    return together


# The pure Python class: the memo of the C class takes memory for the highest number in a file.
class _Detections(pickle._Unpickler):
    """Makes tensors and plain data, and nothing else."""

    @classmethod
    def read(cls, path: Path) -> Any:
        return loaded(cls(io.BytesIO(path.read_bytes())))

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may call."""
        if (module, name) not in _CALLABLES:
            raise pickle.UnpicklingError(f"it needs {module}.{name}")
        return _CALLABLES[module, name]

    def load_build(self) -> None:
        """Setting the state of an object could change the functions above for good."""
        raise pickle.UnpicklingError(f"it sets the state of a {type(self.stack[-2]).__name__}")

    dispatch = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}  # noqa: RUF012


def _tensor(*parts: Any) -> torch.Tensor:
    tensor = torch._utils._rebuild_tensor_v2(*parts)
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise pickle.UnpicklingError("it has a tensor of more numbers than are in the file")
    return tensor


def _load(file: Any) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # at length, and how to load it unsafely
        raise pickle.UnpicklingError("more than tensors and plain data") from None


_CALLABLES = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    # torch's own function of this name loads any pickle
    ("torch.storage", "_load_from_bytes"): lambda raw: _load(io.BytesIO(raw)),
    ("collections", "OrderedDict"): OrderedDict,
    # how protocol 2, which MMEngine writes, has bytes, and empty ones
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
    ("__builtin__", "bytes"): lambda: b"",
}
