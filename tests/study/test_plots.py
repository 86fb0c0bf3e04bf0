"""The plots of the studies. Oracle: pixels of the arms' colours."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("numpy", reason="the pictures are read into its arrays")
pytest.importorskip("matplotlib", reason="the plots are matplotlib's")

import numpy as np
from matplotlib.image import imread

from ws_det.study.plots import by_batch, draw_lines, draw_points

BLUE, ORANGE = (0.122, 0.467, 0.706), (1, 0.498, 0.055)  # matplotlib's first two


def places(path: Path, color: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a colour, without the legend above."""
    image = imread(path)[30:, :, :3]
    return np.nonzero(np.abs(image - color).max(axis=2) < 0.02)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("at", [[0.1, 0.5, 0.9], ["a", "b", "c"]])
def test_lines(at: list, log: bool, tmp_path: Path) -> None:
    rising, falling = [1.0, 10.0, 100.0], [90.0, 80.0, 70.0]
    panel = {"one": (at, rising, [1.0] * 3, rising), "two": (at, falling, [1.0] * 3, [99.0] * 3)}
    draw_lines({"left": panel, "right": panel}, tmp_path / "plot.png", "note", log)
    rows, columns = places(tmp_path / "plot.png", BLUE)
    half = columns.max() // 2
    assert (columns < half).any() and (columns > half).any()  # both panels
    left = columns < half
    first, last = columns[left].min(), columns[left].max()
    assert rows[left][columns[left] == first].min() > rows[left][columns[left] == last].max()
    # on a logarithmic axis 10 is in the middle between 1 and 100
    middle = rows[left][columns[left] == (first + last) // 2].mean()
    top, bottom = rows[left].min(), rows[left].max()
    assert (abs(middle - (top + bottom) / 2) < 0.1 * (bottom - top)) == log
    assert len(places(tmp_path / "plot.png", ORANGE)[0])


def test_points(tmp_path: Path) -> None:
    panels = {"accuracy": {"batch 2": {"one": [1.0, 2.0], "two": [9.0]}}}
    draw_points(panels, tmp_path / "plot.png")
    one, two = (places(tmp_path / "plot.png", color)[0] for color in (BLUE, ORANGE))
    assert two.max() < one.min()


def test_arms_by_batch() -> None:
    """Oracle: the panels by hand; a batch size that was not run and a number that is missing."""
    arms = [
        {"arm": "one", "batch": 8, "ap": {"values": [1.0]}, "loss": None},
        {"arm": "one", "batch": 2, "ap": {"values": [2.0, 3.0]}, "loss": {"values": [0.5]}},
        {"arm": "two", "batch": 8, "ap": {"values": [4.0]}, "loss": {"values": [0.25]}},
    ]
    assert by_batch(arms, {"AP": "ap", "the loss": "loss"}) == {
        "AP": {"batch 2": {"one": [2.0, 3.0]}, "batch 8": {"one": [1.0], "two": [4.0]}},
        "the loss": {"batch 2": {"one": [0.5]}, "batch 8": {"two": [0.25]}},
    }
