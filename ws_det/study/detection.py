"""Detection: Mask R-CNN on drawn shapes with every norm, at batch 1, 2 and 8."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ws_det.markdown import table
from ws_det.study.plots import by_batch, draw_points
from ws_det.study.runs import Results, Run
from ws_det.study.verdicts import SHOWN, best_rate, cell, mean_spread, verdict

TITLE = "Detection: Mask R-CNN on drawn shapes"
TRAIN = "ws_det.mmdet.study:train"
WS = {"type": "WSConv2d"}
_GROUPS = 8  # the layers are narrow
ARMS: dict[str, dict[str, Any]] = {
    "BN": {"conv_cfg": None, "norm_cfg": {"type": "BN"}},
    "GN": {"conv_cfg": None, "norm_cfg": {"type": "GN", "num_groups": _GROUPS}},
    "GN+WS": {"conv_cfg": WS, "norm_cfg": {"type": "GN", "num_groups": _GROUPS}},
    "BN+WS": {"conv_cfg": WS, "norm_cfg": {"type": "BN"}},
    "BCN (large-batch)": {
        "conv_cfg": None,
        "norm_cfg": {"type": "BCN", "num_groups": _GROUPS, "estimate": False},
    },
    "BCN (micro-batch)": {
        "conv_cfg": None,
        "norm_cfg": {"type": "BCN", "num_groups": _GROUPS, "estimate": True},
    },
    "BCN+WS": {
        "conv_cfg": WS,
        "norm_cfg": {"type": "BCN", "num_groups": _GROUPS, "estimate": True},
    },
}
SEEDS = {1: (0, 1, 2), 2: (0,), 8: (0, 1)}  # by batch
RATES = (1e-3, 2e-3, 4e-3)
SEARCH_SEED = 100
IMAGES, SEARCH_IMAGES = 1000, 500  # seen
LONG, LONG_IMAGES = ("GN", "GN+WS"), 4000  # the WS paper's own pair once more, at batch 1
DATA = {"train_images": 1000, "val_images": 100, "image_size": 128, "seed": 0}
_QUICK_DATA = {"train_images": 4, "val_images": 2, "image_size": 64, "seed": 0}


def plan(results: Results, quick: bool = False) -> list[Run]:
    """The data; for each arm the rates on half the images; every batch and seed at the best."""
    runs = [data_run(quick)]
    if runs[0].name not in results:
        return runs
    for arm in list(ARMS)[: 1 if quick else None]:
        rates = RATES[: 1 if quick else None]
        search = {rate: search_run(arm, rate, quick) for rate in rates}
        runs += search.values()
        if all(run.name in results for run in search.values()):
            best = best_rate({rate: _score(results[run.name]) for rate, run in search.items()})
            for batch, seeds in {1: (0,)}.items() if quick else SEEDS.items():
                runs += [final_run(arm, batch, best, seed, quick) for seed in seeds]
            if arm in LONG and not quick:
                runs += [long_run(arm, best, seed) for seed in SEEDS[1]]
    return runs


def data_run(quick: bool) -> Run:
    """Draw the set that all runs of a study share."""
    return Run("data", "ws_det.study.detection:draw_set", _QUICK_DATA if quick else DATA)


def draw_set(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Draw the shapes set."""
    from ws_det.shapes import ShapesSpec, make_shapes

    make_shapes(folder / "shapes", ShapesSpec(**settings))
    return {"images": settings["train_images"]}


def search_run(arm: str, rate: float, quick: bool) -> Run:
    """One rate of the search, at batch 1."""
    settings = _settings(arm, 1, rate, SEARCH_SEED, 4 if quick else SEARCH_IMAGES)
    return Run(f"search_{_slug(arm)}_lr{rate:g}", TRAIN, settings)


def final_run(arm: str, batch: int, best: float, seed: int, quick: bool) -> Run:
    """One seed at the rate that is best at batch 1, times the root of the batch."""
    settings = _settings(arm, batch, best * math.sqrt(batch), seed, 4 if quick else IMAGES)
    return Run(f"{_slug(arm)}_b{batch}_s{seed}", TRAIN, settings)


def long_run(arm: str, best: float, seed: int) -> Run:
    """One seed at batch 1 with more images."""
    return Run(f"{_slug(arm)}_long_s{seed}", TRAIN, _settings(arm, 1, best, seed, LONG_IMAGES))


def summarize(results: Results) -> dict[str, Any]:
    """Box and mask AP of each arm and batch, the search, and what the papers claim."""
    summary: dict[str, Any] = {"search": {}, "arms": {}, "long": {}}
    for arm in ARMS:
        scores = {
            rate: _score(results[name])
            for rate in RATES
            if (name := search_run(arm, rate, False).name) in results
        }
        summary["search"][arm] = {f"{rate:g}": score for rate, score in scores.items()}
        for batch, seeds in SEEDS.items():
            names = [final_run(arm, batch, 1.0, seed, False).name for seed in seeds]
            final = [results[name] for name in names if name in results]
            if final:
                summary["arms"][f"{arm}, batch {batch}"] = {
                    "arm": arm,
                    "batch": batch,
                    "lr": best_rate(scores) * math.sqrt(batch),
                    **_spread(final),
                }
        names = [long_run(arm, 1.0, seed).name for seed in SEEDS[1]]
        if final := [results[name] for name in names if name in results]:
            summary["long"][arm] = _spread(final)
    summary["verdicts"] = _verdicts(summary["arms"])
    if len(summary["long"]) == len(LONG):
        for key, unit in (("box_ap", "box AP"), ("mask_ap", "mask AP")):
            sides = [summary["long"][arm][key]["values"] for arm in reversed(LONG)]
            claim = f"at batch 1 GN+WS is above GN in {unit}, after {LONG_IMAGES} images"
            summary["verdicts"].append(verdict(claim, *sides, unit))
    return summary


def _spread(final: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: mean_spread([result[key] for result in final]) for key in ("box_ap", "mask_ap")}


def _verdicts(arms: dict[str, Any]) -> list[dict[str, Any]]:
    def box(arm: str, batch: int) -> list[float]:
        found = arms.get(f"{arm}, batch {batch}")
        return found["box_ap"]["values"] if found else []

    claims = [
        ("BN loses box AP from batch 8 to batch 1", ("BN", 8), ("BN", 1)),
        ("at batch 1 GN+WS is above BN", ("GN+WS", 1), ("BN", 1)),
        ("at batch 1 GN+WS is above GN", ("GN+WS", 1), ("GN", 1)),
        ("at batch 1 BCN+WS is above GN+WS", ("BCN+WS", 1), ("GN+WS", 1)),
        ("at batch 1 BCN+WS is above BCN without WS", ("BCN+WS", 1), ("BCN (micro-batch)", 1)),
        (
            "at batch 1 BCN from estimates is above BCN from the batch's own statistics",
            ("BCN (micro-batch)", 1), ("BCN (large-batch)", 1),
        ),
        ("at batch 8 BN+WS is above BN", ("BN+WS", 8), ("BN", 8)),
        ("GN+WS at batch 1 is above BN at batch 8, the same images seen", ("GN+WS", 1), ("BN", 8)),
    ]  # fmt: skip
    return [
        verdict(claim, box(*higher), box(*lower), "box AP")
        for claim, higher, lower in claims
        if box(*higher) and box(*lower)
    ]


def section(summary: dict[str, Any]) -> str:
    """The text and the tables."""
    batches = [batch for batch in SEEDS if any(a["batch"] == batch for a in _arms(summary))]
    heads = ["box / mask AP", *(f"batch {batch}" for batch in batches)]
    rows = [
        [arm, *(_aps(summary["arms"].get(f"{arm}, batch {batch}")) for batch in batches)]
        for arm in ARMS
    ]
    claims = [v for v in summary["verdicts"] if v["verdict"] != SHOWN]
    long = [[arm, _aps(numbers)] for arm, numbers in summary["long"].items()]
    search = [
        [arm, *(f"{score:.3f}" for score in scores.values()), max(scores, key=scores.get)]
        for arm, scores in summary["search"].items()
        if scores
    ]
    return "\n\n".join(
        [
            f"The demo's small Mask R-CNN (ResNet-18 of 16 channels, FPN, 128 x 128 pixels), from "
            f"scratch, AdamW, on one process. Every run sees {IMAGES} images: {IMAGES} steps at "
            f"batch 1, {IMAGES // 8} at batch 8, so that batch sizes differ in their steps too. "
            f"Norms are in backbone, FPN and both RoI heads. COCO AP on {DATA['val_images']} "
            f"held-out images, mean ± standard deviation over seeds, "
            + ", ".join(f"{len(SEEDS[batch])} at batch {batch}" for batch in batches)
            + ". BCN+WS is the micro-batch form (EstBN) at every batch size.",
            table(heads, rows),
            "The papers' order does not show at this size in: "
            + "; ".join(f"{v['claim']} ({v['verdict']})" for v in claims)
            + ".",
            f"The WS paper's pair after {LONG_IMAGES} images, batch 1, {len(SEEDS[1])} seeds each, "
            f"at the rates and with the schedule's shape of the short runs. They and their two "
            f"claims were added after the short runs had been seen; masks are judged here alone:",
            table(["box / mask AP", f"{LONG_IMAGES} images"], long),
            f"The learning rate of each arm: the best of {len(RATES)} by the mean of box and mask "
            f"AP at batch 1 after {SEARCH_IMAGES} images, with a seed that is none of the above, "
            f"judged on the same held-out images; times the root of the batch, Adam's rule, at "
            f"batch 2 and 8:",
            table(["", *(f"{rate:g}" for rate in RATES), "chosen"], search),
        ]
    )


def draw(summary: dict[str, Any], path: Path) -> None:
    """A panel for boxes and one for masks, a column of points for each arm and batch."""
    labels = {"box AP": "box_ap", "mask AP": "mask_ap"}
    panels = by_batch(_arms(summary), labels)
    for label, key in labels.items():
        if long := {arm: numbers[key]["values"] for arm, numbers in summary["long"].items()}:
            panels[label][f"batch 1, {LONG_IMAGES} images"] = long
    draw_points(panels, path)


def _arms(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return list(summary["arms"].values())


def _aps(arm: dict[str, Any] | None) -> str:
    return f"{cell(arm['box_ap'])} / {cell(arm['mask_ap'])}" if arm else ""


def _settings(arm: str, batch: int, rate: float, seed: int, images: int) -> dict[str, Any]:
    common = {"batch": batch, "lr": rate, "seed": seed, "images": images, "data": "data/shapes"}
    return {**ARMS[arm], **common}


def _score(result: dict[str, Any]) -> float:
    return (result["box_ap"] + result["mask_ap"]) / 2


def _slug(arm: str) -> str:
    words = arm.lower().replace("+", "-").replace("(", "").replace(")", "")
    return words.replace(" ", "-")
