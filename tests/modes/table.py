"""The rows of the table "Modes and layers" in docs/testing.md, each a check of one layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.modes.layers import LAYERS

Check = Callable[[str], None]


class Mode(NamedTuple):
    """A row.

    Attributes:
        check: Takes a layer's name, raises if the layer is wrong in this mode.
        compared: What is compared, in the table's words.
        refused: Layer -> what the error says, for those that refuse.
    """

    check: Check
    compared: str
    refused: dict[str, str]


MODES: dict[str, Mode] = {}


def mode(
    name: str, compared: str, refused: dict[str, str] | None = None
) -> Callable[[Check], Check]:
    """Make a row of a function."""

    def add(check: Check) -> Check:
        MODES[name] = Mode(check, compared, refused or {})
        return check

    return add


def rows() -> list[str]:
    """The table as Markdown."""
    table = [["mode", *LAYERS, "what is compared"], ["---"] * (len(LAYERS) + 2)]
    for name, row in MODES.items():
        cells = ["refused" if layer in row.refused else "equal" for layer in LAYERS]
        table.append([name, *cells, row.compared])
    return [f"| {' | '.join(cells)} |" for cells in table]
