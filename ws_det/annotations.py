"""Mend a COCO annotation file for a run, or refuse it in one sentence before the run begins.

What can be computed from the rest of the file or from the images is computed, what a run cannot use
is left out and counted, and what has no right value is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from ws_det.coco import check_annotations, read_content
from ws_det.mending.entries import mend_categories, mend_images, mend_references
from ws_det.mending.objects import mend_objects
from ws_det.mending.one import Purpose
from ws_det.mending.sizes import mend_sizes
from ws_det.mending.tally import Tally


class Mended(NamedTuple):
    """An annotation file as a run uses it.

    Attributes:
        content: In COCO's format, whole. What needs no mending is the very object that was read.
        changed: Whether it differs from the file, so that a framework has to read a copy of it.
        notes: What was computed and what is not used, with numbers and the first id, a phrase
            each; empty for an ordinary file. There may be some of a file that is not changed, of
            objects that a framework leaves out itself.
    """

    content: dict[str, Any]
    changed: bool
    notes: list[str]

    def describe(self, name: str) -> str:
        """One line of all notes on the file ``name``."""
        return f"{name}: {'; '.join(self.notes)}"

    def rewritten(self) -> Mended:
        """The same of a file in an encoding that no framework reads."""
        return Mended(self.content, True, ["wrote it in plain UTF-8", *self.notes])


def mend_annotations(
    path: str,
    folder: str | None = None,
    *,
    training: bool = False,
    masks: bool = False,
    classes: Collection[str] | None = None,
    without_masks: str = "use a detector of boxes",
    needed: bool = True,
    turn: bool = True,
) -> Mended:
    """Read a COCO annotation file and mend it.

    Args:
        path: Of the file.
        folder: Of its images, whose headers know their sizes; None where there are no images.
        training: Whether a model learns from it, and there must be something to learn from.
        masks: Whether the model learns masks from it, or is judged by masks.
        classes: Names of the categories that are used, by default all.
        without_masks: What a user whose set has no masks can do, the end of that message.
        needed: Whether it may not be without anything to learn from or to evaluate by, as one file
            of several may, and one of which predictions alone are wanted.
        turn: Whether images are turned upright when they are read, see ``ws_det.images``.

    Returns:
        The file as the run is to read it.

    Raises:
        InputError: If it is missing or damaged, or has what cannot be mended; the message names the
            file and the first annotation, image or category at fault.
    """
    content, is_utf8 = read_content(path)
    mended = mend_content(
        content, path, folder, training=training, masks=masks, classes=classes,
        without_masks=without_masks, needed=needed, turn=turn,
    )  # fmt: skip
    return mended if is_utf8 else mended.rewritten()


def mend_content(
    content: Mapping[str, Any],
    name: str,
    folder: str | None = None,
    *,
    training: bool = False,
    masks: bool = False,
    classes: Collection[str] | None = None,
    without_masks: str = "use a detector of boxes",
    needed: bool = True,
    turn: bool = True,
) -> Mended:
    """Mend what was read from a COCO annotation file, which is left as it is.

    Args:
        content: What was read.
        name: What to call it in a message.
        folder: Of its images; see :func:`mend_annotations`, also for the others.
        training: Whether a model learns from it.
        masks: Whether masks are used.
        classes: Names of the categories that are used.
        without_masks: What a user whose set has no masks can do.
        needed: Whether something of it has to be used.
        turn: Whether images are turned upright.

    Raises:
        InputError: If it has what cannot be mended.
    """
    check_annotations(content, name)
    tally = Tally(name)
    images = mend_images(content["images"], tally)
    categories = mend_categories(content["categories"], tally)
    things = content.get("annotations", [])
    images, things = mend_references(images, things, "image", tally)
    categories, things = mend_references(categories, things, "category", tally)
    images = mend_sizes(images, things, folder, tally, turn)
    used = {c["id"] for c in categories if classes is None or c["name"] in classes}
    purpose = Purpose(training, masks, used, without_masks, needed)
    things = mend_objects(things, images, categories, purpose, tally)
    if not tally.changed:
        return Mended(dict(content), False, tally.notes())
    mended = {**content, "images": images, "categories": categories}
    if "annotations" in content:  # or there are none to evaluate by, which is no empty list
        mended["annotations"] = things
    return Mended(mended, True, tally.notes())
