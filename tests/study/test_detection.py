"""The studies with Mask R-CNN, without training. Oracle: results made up with a known winner."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from ws_det.study import detection, estbn
from ws_det.study.runs import Run


def fake(run: Run) -> dict[str, float]:
    """AP that falls with the distance from a best rate, and differs by arm and seed."""
    if run.name == "data":
        return {"images": 1}
    s = run.settings
    best = 2e-3 if s["conv_cfg"] else 1e-3
    rate = s["lr"] / s["batch"] ** 0.5
    kind = 0.1 * (s["conv_cfg"] is not None) + 0.05 * (s["norm_cfg"]["type"] == "GN")
    ap = 0.3 + kind - 10 * abs(rate - best) + 0.001 * s["seed"] * (s["seed"] < 10)
    return {"box_ap": ap, "mask_ap": ap / 2, "stopped": False}


def played(study: ModuleType) -> dict[str, dict[str, float]]:
    """The results of a whole plan, with the runs of each round."""
    results: dict[str, dict[str, float]] = {}
    while new := [run for run in study.plan(results) if run.name not in results]:
        results |= {run.name: fake(run) for run in new}
    return results


def test_every_arm_has_the_same_search_and_the_seeds_at_its_best() -> None:
    results = played(detection)
    runs = [run for run in detection.plan(results) if run.name != "data"]
    assert len({run.name for run in runs}) == len(runs)
    for arm in detection.ARMS.values():
        mine = [r.settings for r in runs if arm.items() <= r.settings.items()]
        search = [s for s in mine if s["seed"] == 100]
        assert [(s["lr"], s["batch"]) for s in search] == [(1e-3, 1), (2e-3, 1), (4e-3, 1)]
        assert {s["images"] for s in search} == {500}
        best = 2e-3 if arm["conv_cfg"] else 1e-3
        reported = [s for s in mine if s["seed"] < 100]
        long = [s for s in reported if s["images"] == 4000]
        final = {(s["batch"], s["seed"]): (s["lr"], s["images"]) for s in reported if s not in long}
        assert final == {
            (batch, seed): (best * batch**0.5, 1000)
            for batch, seeds in ((1, 3), (2, 1), (8, 2))
            for seed in range(seeds)
        }
        pair = arm["norm_cfg"]["type"] == "GN"
        assert [(s["lr"], s["batch"], s["seed"]) for s in long] == [
            (best, 1, seed) for seed in range(3 * pair)
        ]


def test_the_summary_has_the_means_and_the_section_shows_them() -> None:
    summary = json.loads(json.dumps(detection.summarize(played(detection))))
    arm = summary["arms"]["GN+WS, batch 1"]
    assert arm["lr"] == 2e-3
    assert arm["box_ap"]["mean"] == pytest.approx(0.451) and len(arm["box_ap"]["values"]) == 3
    words = {v["claim"]: v["verdict"] for v in summary["verdicts"]}
    assert words["at batch 1 GN+WS is above BN"] == "shown"
    assert words["at batch 1 BCN+WS is above GN+WS"] == "contradicted"
    assert words["BN loses box AP from batch 8 to batch 1"] == "not shown at this size"
    assert words["at batch 1 GN+WS is above GN in box AP, after 4000 images"] == "shown"
    assert words["at batch 1 GN+WS is above GN in mask AP, after 4000 images"] == "shown"
    text = detection.section(summary)
    assert (
        "does not show at this size in: BN loses box AP from batch 8 to batch 1 (not shown" in text
    )
    assert "| 4000 images |" in text
    assert "0.451 ± 0.001 / 0.226 ± 0.001" in text
    assert "| GN+WS | 0.330 | 0.338 | 0.323 | 0.002 |" in text


def test_the_rates_of_estbn_differ_in_nothing_else() -> None:
    results = played(estbn)
    runs = [run for run in estbn.plan(results) if run.name != "data"]
    assert len(runs) == 3 * len(estbn.ARMS)
    rests = set()
    for run in runs:
        rest = {**run.settings, "seed": 0, "rate": None, "norm_cfg": dict(run.settings["norm_cfg"])}
        rest["norm_cfg"].pop("momentum")
        rests.add(json.dumps(rest, sort_keys=True))
    assert len(rests) == 1
    summary = json.loads(json.dumps(estbn.summarize(results)))
    assert {v["verdict"] for v in summary["verdicts"]} == {"not shown at this size"}
    assert "stays constant at 0.1" in estbn.section(summary)


def test_a_better_rate_is_named() -> None:
    results = played(estbn)
    for seed in range(3):
        results[f"constant-0.3_s{seed}"]["box_ap"] = 0.9
    summary = estbn.summarize(results)
    assert summary["best"] == "constant 0.3"
    assert "Better than constant 0.1 in every seed: constant 0.3." in estbn.section(summary)


@pytest.mark.parametrize("study", [detection, estbn])
def test_draws(study: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    study.draw(study.summarize(played(study)), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
