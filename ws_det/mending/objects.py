"""Mend all annotations of a file, and refuse a file of which nothing is left."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ws_det.errors import InputError
from ws_det.masks import is_finite
from ws_det.mending.entries import Entries, number_in
from ws_det.mending.geometry import short
from ws_det.mending.one import NO_IMAGE, NO_MASK, LeftOut, One, Purpose
from ws_det.mending.tally import Tally, name_of

_NO_AREA = "without a part of the box inside the image"


def mend_objects(
    things: Entries, images: Entries, categories: Entries, purpose: Purpose, tally: Tally
) -> Entries:
    """All annotations that can be used.

    Args:
        things: The annotations of a file.
        images: Its images.
        categories: Its categories.
        purpose: What they are for.
        tally: Counts.

    Raises:
        InputError: If one cannot be mended, or none is left of which some are needed.
    """
    tally.total = len(things)
    one = One(images, categories, purpose, tally)
    kept, useful, crowds = [], 0, 0
    for place, thing in enumerate(things, 1):
        mended = thing if one.is_ordinary(thing) else _mended(thing, place, one, tally)
        if mended is None:
            continue
        kept.append(mended)
        # It stays as it is: both frameworks leave it out themselves.
        is_seen = mended is thing or not purpose.training or _is_seen(mended, one)
        if not is_seen:
            tally.leave_out(_NO_AREA, name_of(thing, place))
        elif mended["category_id"] in purpose.used:
            useful += not mended["iscrowd"]
            crowds += mended["iscrowd"]
    _check_references(things, one, tally)
    if purpose.needed and not useful:
        raise _nothing(len(things), crowds, purpose, tally)
    _check_pixels(kept, purpose, tally)
    return _with_ids(kept, tally)


def _mended(
    thing: dict[str, Any], place: int, one: One, tally: Tally
) -> dict[str, Any] | None:
    name = name_of(thing, place)
    try:
        return one.mended(thing, name)
    except LeftOut as reason:
        tally.leave_out(str(reason), name)
        tally.changed = True
        return None


def _is_seen(thing: Mapping[str, Any], one: One) -> bool:
    x, y, w, h = thing["bbox"]
    height, width = one.sizes[thing["image_id"]] or (math.inf, math.inf)
    return min(x + w, width) > max(x, 0) and min(y + h, height) > max(y, 0)


def _check_references(things: Entries, one: One, tally: Tally) -> None:
    """Refuse a file in which the annotations are all of other images than it lists."""
    if things and tally.left_out.get(NO_IMAGE) == len(things):
        listed, said = next(iter(one.sizes)), things[0].get("image_id")
        raise InputError(
            f"no annotation of {tally.name} is of an image that it lists: the ids of images are "
            f"like {short(listed)} and the annotations name {short(said)}, so make them the same"
        )


def _check_pixels(things: Entries, purpose: Purpose, tally: Tally) -> None:
    """Refuse a file without a box of a pixel: its boxes are in fractions of the image."""
    in_fractions = all(max(t["bbox"]) <= 1 for t in things) and any(
        side % 1 for t in things for side in t["bbox"]
    )
    # MMDetection leaves such boxes out when it learns, and Detectron2 learns what nobody can see.
    too_small = purpose.training and all(min(t["bbox"][2:]) < 1 for t in things)
    if things and purpose.needed and (in_fractions or too_small):
        raise InputError(
            f"no box of {tally.name} is a pixel wide and high, the first is "
            f"{short(things[0]['bbox'])}: write x, y, width and height in pixels, not in fractions "
            f"of the image"
        )


def _nothing(total: int, crowds: int, purpose: Purpose, tally: Tally) -> InputError:
    others = total - crowds - sum(tally.left_out.values())
    reasons = [*tally.left_out.items(), ("crowds", crowds), ("of categories not in use", others)]
    said = ", ".join(f"{count} are {reason}" for reason, count in reasons if count)
    of = f"of its {total} annotations, {said}" if total else "it has no annotations"
    what = "learn from" if purpose.training else "evaluate by"
    way_out = purpose.without_masks if [*tally.left_out] == [NO_MASK] else "complete or correct it"
    return InputError(f"{tally.name} has nothing to {what} ({of}): {way_out}")


def _with_ids(things: Entries, tally: Tally) -> Entries:
    """The annotations with ids of their own, those that are numbers and the first kept."""
    given = [thing.get("id") for thing in things]
    if all(type(key) is int for key in given) and len(set(given)) == len(given):
        return things
    seen: set[Any] = set()
    keys = []
    for key in map(number_in, given):
        is_good = not isinstance(key, bool) and is_finite(key) and key not in seen
        keys.append(key if is_good else None)
        seen |= {key} if is_good else set()
    following = int(max(seen, default=0))
    mended = []
    for thing, key in zip(things, keys):
        if key is None:
            key = following = following + 1
        if key is not thing.get("id"):
            tally.mend("numbered {} anew", f"id {key}")
            thing = {**thing, "id": key}
        mended.append(thing)
    return mended
