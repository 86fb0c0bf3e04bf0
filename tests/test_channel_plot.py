"""The picture of the channels. Oracle: what is in the figure, and that a file is whole."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("PIL")

from matplotlib.figure import Figure
from PIL import Image

from tests.test_channel_report import statistics
from ws_det import channel_plot
from ws_det.channel_report import summarize
from ws_det.errors import InputError


def test_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(
        channel_plot, "Figure", lambda **options: figures.append(Figure(**options)) or figures[0]
    )
    channel_plot.draw_channels(summarize(statistics()), tmp_path / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    assert Image.open(tmp_path / "x.png").size == (1080, 1140)
    above, below = figures[0].axes
    layer1, head, dead = (points.get_offsets().tolist() for points in above.collections)
    assert layer1 == [[-2, 0.5], [2, 1], [1, 0.5], [0, 1]]
    # the constant one: at the border, with the least deviation that there is
    assert head == [[-6, 0.5], [-1, 3]] and dead == [[-2, 0.5], [-6, 0.5]]
    assert [bar.get_height() for bar in below.patches] == [50, 0, 50]
    words = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert words == [
        "backbone.layer1", "roi_head.bbox_head", "2 nearly dead: above 0 in less than 1%"
    ]  # fmt: skip


def test_an_old_picture_stays_where_a_new_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.png"
    path.write_text("old")

    def fail(figure: Figure, file: BinaryIO, **options: object) -> None:
        file.write(b"half")
        raise OSError

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(InputError, match=r"x\.png cannot be written"):
        channel_plot.draw_channels(summarize(statistics()), path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
