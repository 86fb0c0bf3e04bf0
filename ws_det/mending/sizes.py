"""The heights and widths of an annotation file, and those of its images."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ws_det.errors import InputError
from ws_det.images import image_path, image_size
from ws_det.masks import is_size
from ws_det.mending.entries import Entries, number_in
from ws_det.mending.tally import Tally, name_of

SECONDS = 20.0  # that may be spent on comparing sizes
_QUIET = 10.0  # seconds before a word is said


def size_of(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of an image as its file of annotations has them, or None."""
    size = image.get("height"), image.get("width")
    return size if is_size(size) else None


def mend_sizes(
    images: Entries, things: Entries, folder: str | None, tally: Tally, turn: bool = True
) -> Entries:
    """Images whose height and width are whole numbers, and those of the image files.

    Args:
        images: The list.
        things: The annotations, of which a mask may know the size.
        folder: Of the image files, or None to compare nothing and read nothing.
        tally: Counts.
        turn: As of ``image_size``.

    Raises:
        InputError: If a file cannot be read, or has another size.
    """
    from ws_det.evaluation.progress import Progress  # which imports what imports this

    said = [_said(image) for image in images]
    reading, lacking = Progress("reading the sizes of images"), said.count(None)
    if folder is not None:
        _compare([image for image, size in zip(images, said) if size], folder, tally, turn)
    of_masks = _sizes_of_masks(things) if folder is None and None in said else {}
    mended = []
    for place, (image, size) in enumerate(zip(images, said), 1):
        phrase = "made whole numbers of the height and width of {}"
        if size is None and folder is None:
            size = of_masks.get(image["id"])
            phrase = "took the height and width of {} from a mask"
        elif size is None:
            reading.step(lacking)
            size = image_size(image_path(folder, image.get("file_name")), turn)
            phrase = "read the height and width of {} from the file"
        if size is not None and not _has(image, size):
            tally.mend(phrase, name_of(image, place), "image")
            image = {**image, "height": size[0], "width": size[1]}
        mended.append(image)
    return mended


def _has(image: Mapping[str, Any], size: tuple[int, int]) -> bool:
    sides = image.get("height"), image.get("width")
    return sides == size and type(sides[0]) is type(sides[1]) is int


def _sizes_of_masks(things: Entries) -> dict[Any, tuple[int, int]]:
    """The size of an image by its id, where it has a mask of run lengths."""
    sizes = {}
    for thing in things:
        shape, key = thing.get("segmentation"), thing.get("image_id")
        size = shape.get("size") if isinstance(shape, Mapping) else None
        if is_size(size) and isinstance(key, (str, int)):
            sizes[key] = (int(size[0]), int(size[1]))
    return sizes


def _said(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """The size that an image is said to have, be it in text or with a fraction of nothing."""
    size = number_in(image.get("height")), number_in(image.get("width"))
    return (int(size[0]), int(size[1])) if is_size(size) else None


def _compare(
    images: Sequence[dict[str, Any]], folder: str, tally: Tally, turn: bool
) -> None:
    """Compare sizes with those of the files, in random order as far as the time goes.

    A set of a hundred thousand images on a slow disk would take an hour; a fault that all images
    or many have is found in the first few.
    """
    order = list(range(len(images)))
    random.Random(0).shuffle(order)
    started, is_told, wrong = time.monotonic(), False, []
    for done, number in enumerate(order):
        spent = time.monotonic() - started
        if spent > SECONDS:
            tally.remark(f"compared the sizes of {done} of {len(images)} images with the files")
            break
        if spent > _QUIET and not is_told:
            is_told = True
            line = f"comparing sizes of images: {done} of {len(images)}, {_QUIET:.0f} s more"
            print(line, file=sys.stderr, flush=True)
        path = image_path(folder, images[number].get("file_name"))
        if image_size(path, turn) != _said(images[number]):
            wrong.append(number)
    else:
        done = len(images)
    if wrong:
        _refuse(images[min(wrong)], folder, f"{len(wrong)} of {done}", tally, turn)


def _refuse(
    image: dict[str, Any], folder: str, count: str, tally: Tally, turn: bool
) -> None:
    path = image_path(folder, image.get("file_name"))
    said, size = _said(image), image_size(path, turn)
    is_turned = said == image_size(path, turn=False)
    reason = "for its EXIF orientation turns it, " if is_turned else ""
    way_out = (
        "write the height and width of the upright images into the file if its boxes are in their "
        "pixels, or else store the images upright as the file has them"
        if is_turned
        else "annotate the images that are there, or give the ones that the file was made for"
    )
    raise InputError(
        f"the image {image['file_name']} is {size[1]} wide and {size[0]} high, {reason}but "
        f"{tally.name} says {said[1]} and {said[0]} ({count} compared images differ): {way_out}"
    )
