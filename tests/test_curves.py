"""The drawing of losses and APs. Oracle: pixels."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("numpy", reason="ws_det.curves needs numpy")
pytest.importorskip("matplotlib", reason="ws_det.curves needs matplotlib")

import numpy as np
from matplotlib.image import imread

from ws_det.curves import draw_curves


@pytest.mark.parametrize("aps", [[], [{"iter": 50, "box AP": 0.8, "mask AP": 0.3}]])
def test_picture_shows_the_numbers(aps: list[dict[str, float]], tmp_path: Path) -> None:
    """A falling loss is black ink from top left to bottom right; APs are dots."""
    losses = {"loss": np.linspace(4, 1, 50), "loss_cls": np.linspace(2, 0.5, 50)}
    draw_curves(losses, aps, 50, tmp_path / "curves.png")
    image = imread(tmp_path / "curves.png")[..., :3]
    width = image.shape[1] // (2 if aps else 1)
    # The line of the total is the only black thing as far from the axes' labels as this.
    black = image[60:-80, 80 : width - 100].max(axis=2) < 0.1
    left, right = (np.nonzero(half)[0].mean() for half in np.array_split(black, 2, axis=1))
    assert right > left + 50
    blue, orange = (
        np.abs(image - color).max(axis=2) < 0.02
        for color in ((0.122, 0.467, 0.706), (1, 0.498, 0.055))
    )
    box, mask = blue[60:, width + 60 :], orange[60:, width + 60 :]
    assert bool(aps) == bool(box.any()) == bool(mask.any())
    if aps:  # 0.8 is above 0.3; the legend has one of each in one column, so compare medians
        assert np.median(np.nonzero(box)[0]) < np.median(np.nonzero(mask)[0])
