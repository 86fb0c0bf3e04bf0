"""The search of learning rates and the seeds. Oracle: results written by hand."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("sklearn", reason="a plan asks for it")

from ws_det.study.grid import RATES, SEARCH_SEED, TRAIN, Grid, search_table

ARMS = {"GN, mean only": {"norm": "GN", "kernel": "mean"}, "BCN+WS": {"norm": "BCN"}}
GRID = Grid(ARMS, batches=(2, 128), seeds=(3, 4), final="package.module:final")


def result(loss: float | None) -> dict[str, Any]:
    data = {"name": "digits", "size": 8, "train": 1, "validation": 1, "held_out": 1}
    return {"loss": loss, "accuracy": 0.5, "data": data}


def test_the_search_comes_first_and_treats_all_arms_alike() -> None:
    runs = GRID.plan({})
    assert len({run.name for run in runs}) == len(runs) == 2 * 2 * len(RATES)
    for run in runs:
        assert run.function == TRAIN and run.settings["seed"] == SEARCH_SEED
        assert run.settings["judged"] == "validation"
    for batch in (2, 128):  # in proportion to the batch
        for kernel in ("GN", "BCN"):
            rates = [
                run.settings["lr"]
                for run in runs
                if run.settings["batch"] == batch and run.settings["norm"] == kernel
            ]
            assert rates == [rate * batch / 32 for rate in RATES]


def test_the_seeds_train_at_the_rate_with_the_least_validation_loss() -> None:
    names = [run.name for run in GRID.plan({})]
    losses = [None, 0.3, 0.1, 0.2] + [0.1, 0.1, 0.5, 0.4] + [None] * 4
    results = {name: result(loss) for name, loss in zip(names, losses)}
    final = [run for run in GRID.plan(results) if run.name not in names]
    # the first three arms and batch sizes are searched; of equals the smaller rate
    assert [run.name for run in final] == [
        "gn-mean-only_b2_s3", "gn-mean-only_b2_s4", "bcn-ws_b2_s3", "bcn-ws_b2_s4",
        "gn-mean-only_b128_s3", "gn-mean-only_b128_s4",
    ]  # fmt: skip
    chosen = [RATES[2]] * 2 + [RATES[0]] * 2 + [RATES[0]] * 2
    assert [run.settings["lr"] for run in final] == [
        rate * run.settings["batch"] / 32 for rate, run in zip(chosen, final)
    ]
    for run in final:
        assert run.function == "package.module:final" and run.settings["judged"] == "held_out"
        assert run.settings["epochs"] > GRID.plan({})[0].settings["epochs"]

    results |= {run.name: result(0.7) for run in final[:4]}
    summary = GRID.summarize(results)
    assert list(summary["arms"]) == ["GN, mean only, batch 2", "BCN+WS, batch 2"]
    arm = summary["arms"]["GN, mean only, batch 2"]
    assert arm["rate"] == RATES[2] and arm["runs"] == [result(0.7)] * 2
    lines = search_table(summary).splitlines()
    assert lines[-2] == "| GN, mean only, batch 2 | diverged | 0.300 | 0.100 | 0.200 | 0.2 |"
    assert lines[-1] == "| BCN+WS, batch 2 | 0.100 | 0.100 | 0.500 | 0.400 | 0.01 |"
