"""EstBN: the rate of its estimates, constant or following the learning rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ws_det.markdown import table
from ws_det.study import detection
from ws_det.study.detection import DATA, IMAGES, TRAIN, WS
from ws_det.study.plots import draw_points
from ws_det.study.runs import Results, Run
from ws_det.study.verdicts import cell, mean_spread, verdict

TITLE = "EstBN: the rate of its estimates"
SEEDS = (0, 1, 2)
LR = 2e-3  # of the demo's recipe: the rate of EstBN is what differs here
DEFAULT = "constant 0.1"
_AFTER, _ALL = {"warmup": False}, {"warmup": True}
ARMS: dict[str, tuple[float, dict[str, Any] | None]] = {
    "constant 0.03": (0.03, None),
    DEFAULT: (0.1, None),
    "constant 0.3": (0.3, None),
    "0.1 x lr / base lr": (0.1, _ALL),
    "0.1 x lr / base lr after the warm-up": (0.1, _AFTER),
}


def plan(results: Results, quick: bool = False) -> list[Run]:
    """The data, then every rate with every seed."""
    runs = [detection.data_run(quick)]
    if runs[0].name not in results:
        return runs
    seeds, arms = (SEEDS[:1], [DEFAULT]) if quick else (SEEDS, ARMS)
    return runs + [_run(arm, seed, quick) for seed in seeds for arm in arms]


def _run(arm: str, seed: int, quick: bool) -> Run:
    momentum, follow = ARMS[arm]
    norm = {"type": "BCN", "num_groups": 8, "estimate": True, "momentum": momentum}
    settings = {
        "conv_cfg": WS, "norm_cfg": norm, "batch": 1, "lr": LR, "seed": seed,
        "images": 4 if quick else IMAGES, "data": "data/shapes",
    }  # fmt: skip
    if follow:
        settings["rate"] = follow
    return Run(f"{_slug(arm)}_s{seed}", TRAIN, settings)


def summarize(results: Results) -> dict[str, Any]:
    """Box and mask AP of each rate."""
    arms = {}
    for arm in ARMS:
        done = [f"{_slug(arm)}_s{seed}" for seed in SEEDS]
        done = [results[name] for name in done if name in results]
        if done:
            arms[arm] = {
                key: mean_spread([result[key] for result in done]) for key in ("box_ap", "mask_ap")
            }
    best = max(arms, key=lambda arm: arms[arm]["box_ap"]["mean"])
    others = [arm for arm in arms if arm != DEFAULT]
    box = {arm: numbers["box_ap"]["values"] for arm, numbers in arms.items()}
    verdicts = [
        verdict(f"EstBN's rate {arm} is better than {DEFAULT}", box[arm], box[DEFAULT], "box AP")
        for arm in others
    ]
    return {"arms": arms, "best": best, "verdicts": verdicts}


def section(summary: dict[str, Any]) -> str:
    """The text and the table."""
    rows = [
        [arm, cell(numbers["box_ap"]), cell(numbers["mask_ap"])]
        for arm, numbers in summary["arms"].items()
    ]
    better = [v for v in summary["verdicts"] if v["verdict"] == "shown"]
    if better:
        names = ", ".join(v["claim"].split("rate ")[1].split(" is better")[0] for v in better)
        advice = f"Better than {DEFAULT} in every seed: {names}."
    else:
        advice = (
            f"No other rate and no schedule is better than {DEFAULT} in every seed, so the layers' "
            f"default, and with it every supplied config, stays constant at 0.1."
        )
    return "\n\n".join(
        [
            f"The papers' code leaves EstBN's rate at 0, where nothing is learned, and publishes "
            f"no schedule; ours is our own choice. BCN+WS on the shapes set, batch 1, {IMAGES} "
            f"images seen, learning rate {LR:g} for all, {len(SEEDS)} seeds, "
            f"{DATA['val_images']} held-out images. *Following* multiplies the rate by the "
            f"learning rate over its base, in a warm-up of a tenth and a cosine to 0.",
            table(["rate", "box AP", "mask AP"], rows),
            f"The best mean has {summary['best']}. {advice}",
        ]
    )


def draw(summary: dict[str, Any], path: Path) -> None:
    """Two panels, a column of points for each rate."""
    arms = summary["arms"]
    panels = {
        word: {"BCN+WS, batch 1": {arm: numbers[key]["values"] for arm, numbers in arms.items()}}
        for word, key in (("box AP", "box_ap"), ("mask AP", "mask_ap"))
    }
    draw_points(panels, path)


def _slug(arm: str) -> str:
    words = arm.replace("x lr / base lr", "following").replace("after the warm-up", "after-warmup")
    return words.replace(" ", "-")
