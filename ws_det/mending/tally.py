"""Count what is mended in an annotation file, and what is not used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ws_det.errors import printable


class Tally:
    """Counts by what was done, each with the first that it was done to.

    Args:
        name: Of the file, for messages.

    Attributes:
        name: Of the file.
        changed: Whether anything was changed.
        left_out: How many annotations are not used, by the reason.
        total: How many annotations there are.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.changed = False
        self.left_out: dict[str, int] = {}
        self._first_left_out = ""
        self._mended: dict[tuple[str, str], list[Any]] = {}
        self.total = 0
        self._remarks: list[str] = []

    def mend(self, phrase: str, first: str, what: str = "annotation") -> None:
        """Count one thing that was changed.

        Args:
            phrase: What was done, with ``{}`` for the number of them.
            first: The one it was done to.
            what: It is.
        """
        self.changed = True
        self._mended.setdefault((phrase, what), [0, first])[0] += 1

    def leave_out(self, reason: str, first: str) -> None:
        """Count one annotation that is not used."""
        self._first_left_out = self._first_left_out or first
        self.left_out[reason] = self.left_out.get(reason, 0) + 1

    def remark(self, sentence: str) -> None:
        """Note what changes nothing."""
        self._remarks.append(sentence)

    def notes(self) -> list[str]:
        """A phrase for each count."""
        notes = [*self._remarks]
        for (phrase, what), (count, first) in self._mended.items():
            several = f"{count} {what}s" if count > 1 else f"1 {what}"
            notes.append(phrase.format(f"{several} ({'the first is ' * (count > 1)}{first})"))
        count = sum(self.left_out.values())
        if count:
            reasons = ", ".join(f"{n} {reason}" for reason, n in self.left_out.items())
            notes.append(
                f"{count} of {self.total} annotations {'are' if count > 1 else 'is'} not used: "
                f"{reasons} ({'the first is ' * (count > 1)}{self._first_left_out})"
            )
        return notes


def name_of(thing: Mapping[str, Any], place: int) -> str:
    """What to call an annotation or image in a message: by its id, or its place from 1."""
    key = thing.get("id")
    has_id = isinstance(key, (str, int))
    return f"id {printable(str(key)[:50])}" if has_id else f"number {place} of the list"
