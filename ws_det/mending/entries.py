"""Mend the images and categories of an annotation file, and what its annotations call them."""

from __future__ import annotations

import math
import re
from typing import Any

from ws_det.errors import InputError
from ws_det.masks import is_finite
from ws_det.mending.tally import Tally, name_of

Entries = list[dict[str, Any]]
_WHOLE = re.compile(r"\s*[+-]?[0-9]{1,100}(\.0*)?\s*")
_NUMBER = re.compile(r"\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
_PLURALS = {"image": "images", "category": "categories"}


def number_in(text: Any) -> Any:
    """The finite number that a text says, or what was given."""
    if not isinstance(text, str):
        return text
    if _WHOLE.fullmatch(text):
        return int(text.partition(".")[0])
    return float(text) if _NUMBER.fullmatch(text) and math.isfinite(float(text)) else text


def numbers_in(values: Any) -> Any:
    """A list with numbers for the texts of numbers in it, or what was given."""
    if not isinstance(values, list) or not any(isinstance(value, str) for value in values):
        return values
    return [number_in(value) for value in values]


def mend_images(images: Entries, tally: Tally) -> Entries:
    """Images with ids of their own.

    Raises:
        InputError: If two different ones have the same id, or an id is none.
    """
    return _distinct(images, "image", tally)


def mend_categories(categories: Entries, tally: Tally) -> Entries:
    """Categories with ids of their own.

    Raises:
        InputError: If two different ones have the same id, or an id is none.
    """
    return _distinct(categories, "category", tally)


def _distinct(entries: Entries, what: str, tally: Tally) -> Entries:
    by_id: dict[Any, dict[str, Any]] = {}
    for place, entry in enumerate(entries, 1):
        key = entry["id"]
        if isinstance(key, bool) or not (isinstance(key, str) or is_finite(key)):
            raise InputError(
                f"the {what} number {place} of {tally.name} has the id {str(key)[:50]}: give it a "
                f"number"
            )
        if by_id.setdefault(key, entry) is not entry:
            if by_id[key] != entry:
                raise InputError(
                    f"two {_PLURALS[what]} of {tally.name} have the id {key}: give each its own, "
                    f"also in the annotations"
                )
            tally.mend("left out {} that are there twice", name_of(entry, place), what)
    return entries if len(by_id) == len(entries) else [*by_id.values()]


def mend_references(
    entries: Entries, things: Entries, what: str, tally: Tally
) -> tuple[Entries, Entries]:
    """Make numbers of ids in one list that are text in the other.

    Text that both lists have alike stays: predictions name images and categories by it.

    Args:
        entries: Images or categories.
        things: The annotations.
        what: ``"image"`` or ``"category"``.
        tally: Counts.

    Returns:
        Both lists.

    Raises:
        InputError: If some ids of the first list are text and some are not.
    """
    field = f"{what}_id"
    are_text = {isinstance(entry["id"], str) for entry in entries}
    if are_text == {True} and all(isinstance(thing.get(field), str) for thing in things):
        return entries, things
    if True in are_text:
        numbers = [number_in(entry["id"]) for entry in entries]
        distinct = len(set(numbers)) == len(numbers)
        if distinct and not any(isinstance(number, str) for number in numbers):
            entries = [_renamed(entry, "id", tally, what) for entry in entries]
        elif False in are_text:
            raise InputError(
                f"the {_PLURALS[what]} of {tally.name} have ids that are numbers and ids that are "
                f"text: write them all in one type, also in the annotations"
            )
        else:
            return entries, things
    if any(isinstance(thing.get(field), str) for thing in things):
        things = [_renamed(thing, field, tally) for thing in things]
    return entries, things


def _renamed(
    entry: dict[str, Any], field: str, tally: Tally, what: str = "annotation"
) -> dict[str, Any]:
    number = number_in(entry.get(field))
    if not isinstance(entry.get(field), str) or isinstance(number, str):
        return entry
    tally.mend(f"made the {field} of {{}} a number, which was text", name_of(entry, 0), what)
    return {**entry, field: number}
