"""Every layer in every mode. Oracle: the formulas in float64, see tests/modes/layers.py."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch

from tests.modes.layers import LAYERS
from tests.modes.table import MODES, rows

for part in ("training", "functions", "processes", "files"):  # each makes rows
    import_module(f"tests.modes.{part}")

DOC = Path(__file__).resolve().parents[1] / "docs/testing.md"


def parameter(mode: str) -> object:
    marks = [pytest.mark.slow] if "inductor" in mode else []  # compiles C++
    return pytest.param(mode, marks=marks)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("mode", map(parameter, MODES))
def test_mode(mode: str, layer: str) -> None:
    torch._dynamo.reset()
    row = MODES[mode]
    if layer not in row.refused:
        row.check(layer)
        return
    with pytest.raises(RuntimeError, match=row.refused[layer]):
        row.check(layer)


def test_the_table_in_the_docs_is_this_one() -> None:
    """Rows, columns and cells of what has run above."""
    table = [line for line in DOC.read_text().partition("## Modes and layers")[2].splitlines()
             if line.startswith("|")]  # fmt: skip
    assert table == rows()
