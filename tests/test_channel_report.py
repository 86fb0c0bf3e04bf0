"""What is said of channel statistics. Oracle: numbers and lines written by hand."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from ws_det.channel_report import counted, part_of, summarize, table
from ws_det.diagnostics import ChannelStatistics
from ws_det.evaluation.progress import Progress


def statistics() -> dict[str, ChannelStatistics]:
    """Two layers of a stage, one of a head; in it a channel that is constantly -3."""

    def layer(mean: list[float], std: list[float], active: list[float]) -> ChannelStatistics:
        return ChannelStatistics(
            *(torch.tensor(v, dtype=torch.float64) for v in (mean, std, active))
        )

    return {
        "backbone.layer1.0.bn1": layer([-1, 2], [0.5, 1], [0.005, 1]),
        "backbone.layer1.0.bn2": layer([0.5, 0], [0.5, 1], [0.75, 0.5]),
        "roi_head.bbox_head.shared_convs.0.bn": layer([-3, -3], [0, 3], [0, 0.125]),
    }


@pytest.mark.parametrize(
    ("layer", "part"),
    [
        ("backbone.bn1", "backbone.stem"),
        ("backbone.stem.1", "backbone.stem"),
        ("backbone.layer3.0.gn2", "backbone.layer3"),
        ("backbone.stages.2.layers.0.norm", "backbone.stages.2"),
        ("backbone.bottom_up.stem.conv1.norm", "backbone.stem"),
        ("backbone.bottom_up.res5.2.conv3.norm", "backbone.res5"),
        ("backbone.fpn_output2.norm", "neck"),
        ("neck.fpn_convs.0.gn", "neck"),
        ("bbox_head.cls_convs.0.bn", "bbox_head"),
        ("head.cls_subnet.1", "head"),
        ("roi_head.mask_head.convs.0.bn", "roi_head.mask_head"),
        ("roi_heads.box_head.1.conv1.norm", "roi_heads.box_head"),
        ("roi_heads", "roi_heads"),
    ],
)
def test_parts(layer: str, part: str) -> None:
    assert part_of(layer) == part


def test_the_summary_is_json() -> None:
    summary = summarize(statistics())
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    # the medians of 2, 2, 1, 0 and of infinity, 1, whose mean is infinite too
    layer1 = {"layers": 2, "channels": 4, "nearly_dead": 0.25, "normalized_mean": 1.5}
    head = {"layers": 1, "channels": 2, "nearly_dead": 0.5, "normalized_mean": None}
    assert summary["parts"] == {"backbone.layer1": layer1, "roi_head.bbox_head": head}
    assert summary["all"]["nearly_dead"] == 2 / 6 and summary["all"]["normalized_mean"] == 1.5
    worst = ("roi_head.bbox_head.shared_convs.0.bn", 0, 0.0, None)
    assert tuple(summary["worst"][0].values()) == worst and len(summary["worst"]) == 6
    layer = summary["layers"]["backbone.layer1.0.bn1"]
    assert layer == {
        "part": "backbone.layer1", "mean": [-1, 2], "std": [0.5, 1], "active": [0.005, 1]
    }  # fmt: skip


def test_the_table() -> None:
    lines = table(summarize(statistics())).splitlines()
    assert [line.split() for line in lines[:6]] == [
        ["part", "layers", "channels", "nearly", "dead", "median", "|mean", "/", "std|"],
        ["backbone.layer1", "2", "4", "25.0%", "1.50"],
        ["roi_head.bbox_head", "1", "2", "50.0%", "constant"],
        ["all", "3", "6", "33.3%", "1.50"],
        [],
        ["the", "channels", "active", "least", "channel", "active", "mean", "/", "std"],
    ]
    assert lines[6].split() == ["roi_head.bbox_head.shared_convs.0.bn", "0", "0.00%", "constant"]
    assert lines[7].split() == ["backbone.layer1.0.bn1", "0", "0.50%", "-2.00"]
    assert len({len(line) for line in lines[:4]}) == 1


def test_images_are_counted(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Oracle: a line after ten seconds, with what is left."""
    clock = iter([0.0, 4.0, 12.0])
    slow = partial(Progress, clock=lambda: next(clock))
    monkeypatch.setattr("ws_det.channel_report.Progress", slow)
    assert list(counted("abc", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().err == "measuring 3 images: 67%, about 0:00:06 left\n"
