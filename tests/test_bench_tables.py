"""What a benchmark shows. Oracle: tables written by hand, and pixels of the chart."""

from __future__ import annotations

from pathlib import Path

import pytest

from ws_det.bench.rounds import Comparison, Target, Timing
from ws_det.bench.tables import as_json, markdown

COMPARISON = Comparison(
    "Do it",
    arms={},
    baseline="plain",
    targets=[Target("ws_det", "plain", 2.0), Target("ws_det", "plain", 1.5)],
    skipped={"ws_det compiled": "no compiler"},
    counts={"saved, MB": {"ws_det": 1234.56}},
    images=2,
)
TIMINGS = {
    "plain": Timing(0.125, 0.12, 0.12996, 1.0),
    "ws_det": Timing(0.2, 0.19, 0.21, 1.6),
}
MARKDOWN = """\
### Do it

|  | median ms | quartiles ms | x plain | images/s | saved, MB |
| --- | --- | --- | --- | --- | --- |
| plain | 125 | 120 - 130 | 1.00 | 16 |  |
| ws_det | 200 | 190 - 210 | 1.60 | 10 | 1235 |

| target | ratio | reached |
| --- | --- | --- |
| ws_det at most 2.00 x plain | 1.60 | yes |
| ws_det at most 1.50 x plain | 1.60 | no |

Skipped ws_det compiled: no compiler."""


def test_markdown() -> None:
    assert markdown(COMPARISON, TIMINGS) == MARKDOWN


def test_json_has_the_same_unrounded() -> None:
    assert as_json(COMPARISON, TIMINGS) == {
        "title": "Do it",
        "baseline": "plain",
        "arms": {
            "plain": {
                "median_seconds": 0.125,
                "lower_quartile_seconds": 0.12,
                "upper_quartile_seconds": 0.12996,
                "ratio": 1.0,
                "images_per_second": 16.0,
            },
            "ws_det": {
                "median_seconds": 0.2,
                "lower_quartile_seconds": 0.19,
                "upper_quartile_seconds": 0.21,
                "ratio": 1.6,
                "saved, MB": 1234.56,
                "images_per_second": 10.0,
            },
        },
        "targets": [
            {"arm": "ws_det", "versus": "plain", "at_most": 2.0, "ratio": 1.6, "reached": True},
            {"arm": "ws_det", "versus": "plain", "at_most": 1.5, "ratio": 1.6, "reached": False},
        ],
        "skipped": {"ws_det compiled": "no compiler"},
    }


def test_bars_are_as_long_as_ratios(tmp_path: Path) -> None:
    """Of the colored pixels in the widest rows: 1.0 for the baseline, 1.6 for ours."""
    np = pytest.importorskip("numpy")
    image_module = pytest.importorskip("matplotlib.image")
    from ws_det.bench.chart import BASELINE, OURS, draw_bars

    draw_bars([(COMPARISON, TIMINGS)] * 2, tmp_path / "bars.png")
    image = image_module.imread(tmp_path / "bars.png")[..., :3]
    lengths = []
    for color in (BASELINE, OURS):
        rgb = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        lengths.append((np.abs(image - rgb).max(axis=2) < 0.02).sum(axis=1).max())
    assert lengths[1] / lengths[0] == pytest.approx(1.6, abs=0.02)  # whole pixels
