"""Channels over training, end to end at its smallest.

Oracle: statistics written by hand; for the whole, that a killed channel is counted.
"""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
pytest.importorskip("matplotlib", reason="the plots are matplotlib's")

from matplotlib.image import imread

from tests.study.cases import run_plan
from ws_det.diagnostics import ChannelStatistics
from ws_det.study import singularities
from ws_det.study.singularities import numbers


def test_numbers_are_over_the_channels_of_all_layers() -> None:
    def of(means: list[float], stds: list[float], active: list[float]) -> ChannelStatistics:
        return ChannelStatistics(*(torch.tensor(v).double() for v in (means, stds, active)))

    found = numbers(
        {
            "a": of([-2.0, 1.0], [1.0, 2.0], [0.0, 0.7]),
            "b": of([-3.0, 0.0], [0.0, 0.0], [0.0, 0.0]),  # constant, at -3 and at 0
        }
    )
    assert found["nearly_dead"] == 75
    assert found["mean"] == pytest.approx((2 + 0.5 + 0) / 3)
    assert found["deviation"] == pytest.approx((1 + 2 + 0 + 0) / 4)
    assert found["deviation_spread"] == pytest.approx(math.sqrt((1 + 4) / 4 - 0.75**2))
    assert set(found) == set(singularities._NUMBERS)


def test_the_smallest_plan_goes_from_runs_to_the_page(tmp_path: Path) -> None:
    results = run_plan(partial(singularities.plan, quick=True), tmp_path)
    points = results["gn_b2_s0"]["points"]
    assert [p["progress"] for p in points] == sorted({p["progress"] for p in points})
    assert points[-1]["progress"] == 1 and len(points) == singularities.POINTS
    summary = json.loads(json.dumps(singularities.summarize(results)))
    arm = summary["arms"]["GN, batch 2"]
    # what enters a nonlinearity: once in the stem and twice a block, never in a shortcut
    assert arm["layers"] == ["norm"] + [f"block{b}.norm{n}" for b in (1, 2, 3) for n in (1, 2)]
    assert arm["over_training"]["mean"] == [[p["all"]["mean"] for p in points]]
    assert arm["mean"]["mean"]["values"] == [
        pytest.approx(sum(p["all"]["mean"] for p in points) / len(points))
    ]
    assert arm["by_depth"]["deviation"][0][0] == points[-1]["layers"]["norm"]["deviation"]
    assert len(summary["verdicts"]) == 1  # of GN against BN, the arms that ran
    assert "| GN | " in singularities.section(summary)
    singularities.draw(summary, tmp_path / "plot.png")
    assert imread(tmp_path / "plot.png")[..., :3].min() < 0.1
