"""Which categories of an annotation file a detector's labels are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ws_det.errors import InputError, warn
from ws_det.evaluation.inputs import read_predictions
from ws_det.evaluation.numbering import of_id


def ids_of_labels(
    categories: Sequence[Mapping[str, Any]], names: Sequence[str] | None, truth: object
) -> list[Any]:
    """The category id of each label.

    Args:
        categories: Of the annotation file, in the order that labels have without names.
        names: The detector's classes in the order of its labels, where they are known.
        truth: What to call the annotation file.

    Raises:
        InputError: If a name is not that of exactly one category.
    """
    there = [str(category["name"]) for category in categories]
    if names is None or list(names) == there:
        return [category["id"] for category in categories]
    for name in names:
        if there.count(name) != 1 or list(names).count(name) != 1:
            raise InputError(
                f"the detector's class {name!r} is not one category of {truth} "
                f"({', '.join(there[:3])}, ...): give the annotation file that the predictions "
                f"were made for, or the names that its classes have there with --classes"
            )
    return [categories[there.index(name)]["id"] for name in names]


def warn_of_fewer(path: Path, highest: int, categories: int, truth: object) -> None:
    """Say that labels without names may be those of a detector of fewer classes."""
    if 0 <= highest < categories - 1:
        warn(
            f"the predictions {path} do not say their classes, and none is of the last "
            f"{categories - 1 - highest} of the {categories} categories of {truth}: if the "
            f"detector knows only some of them, give its classes in their order with --classes"
        )


def only(
    truth: Mapping[str, Any], found: Any, known: Sequence[Sequence[Any]]
) -> tuple[dict[str, Any], dict[str, list[Any]] | list[Any]]:
    """Truth and predictions of the categories that all detectors know.

    Args:
        truth: COCO annotations.
        found: COCO results, the path of their file, or these by kind.
        known: Category ids of each detector.
    """
    chosen = {category for category in known[0] if all(category in k for k in known)}
    kept = {**truth, "categories": [c for c in truth["categories"] if c["id"] in chosen]}
    kept["annotations"] = _of(truth.get("annotations", ()), chosen)
    if isinstance(found, Mapping):
        return kept, {kind: _of(entries, chosen) for kind, entries in found.items()}
    return kept, _of(read_predictions(found), chosen)


def _of(entries: Any, chosen: Collection[Any]) -> list[Any]:
    return [entry for entry in entries if of_id(chosen, entry.get("category_id")) is not None]
