"""Detection: Mask R-CNN on drawn shapes with every norm, at batch 1, 2 and 8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ws_det.markdown import table
from ws_det.study.plots import draw_points
from ws_det.study.runs import Results, Run
from ws_det.study.verdicts import best_rate, cell, mean_spread, verdict

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
SEEDS = {1: (0, 1, 2), 2: (0, 1), 8: (0, 1)}  # by batch
RATES = (1e-3, 2e-3, 4e-3)
SEARCH_SEED = 100
IMAGES, SEARCH_IMAGES = 1000, 500  # seen
DATA = {"train_images": 1000, "val_images": 100, "image_size": 128, "seed": 0}
_QUICK_DATA = {"train_images": 4, "val_images": 2, "image_size": 64, "seed": 0}


def plan(results: Results, quick: bool = False) -> list[Run]:
    """The data; for each arm and batch the rates on half the images; the seeds at the best."""
    runs = [data_run(quick)]
    if runs[0].name not in results:
        return runs
    arms = dict(list(ARMS.items())[:2]) if quick else ARMS
    for batch, seeds in {1: (0,)}.items() if quick else SEEDS.items():
        for arm in arms:
            search = [search_run(arm, batch, rate, quick) for rate in RATES]
            runs += search
            if all(run.name in results for run in search):
                rate = best_rate({r.settings["lr"]: _score(results[r.name]) for r in search})
                runs += [final_run(arm, batch, rate, seed, quick) for seed in seeds]
    return runs


def data_run(quick: bool) -> Run:
    """Draw the set that all runs of a study share."""
    return Run("data", "ws_det.study.detection:draw_set", _QUICK_DATA if quick else DATA)


def draw_set(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Draw the shapes set."""
    from ws_det.shapes import ShapesSpec, make_shapes

    make_shapes(folder / "shapes", ShapesSpec(**settings))
    return {"images": settings["train_images"]}


def search_run(arm: str, batch: int, rate: float, quick: bool) -> Run:
    """One rate of the search."""
    settings = _settings(arm, batch, rate, SEARCH_SEED, 4 if quick else SEARCH_IMAGES)
    return Run(f"search_{_slug(arm)}_b{batch}_lr{rate:g}", TRAIN, settings)


def final_run(arm: str, batch: int, rate: float, seed: int, quick: bool) -> Run:
    """One seed at the chosen rate."""
    settings = _settings(arm, batch, rate, seed, 4 if quick else IMAGES)
    return Run(f"{_slug(arm)}_b{batch}_s{seed}", TRAIN, settings)


def summarize(results: Results) -> dict[str, Any]:
    """Box and mask AP of each arm and batch, the search, and what the papers claim."""
    summary: dict[str, Any] = {"search": {}, "arms": {}}
    for arm in ARMS:
        for batch in SEEDS:
            names = {rate: search_run(arm, batch, rate, False).name for rate in RATES}
            if not all(name in results for name in names.values()):
                continue
            scores = {rate: _score(results[name]) for rate, name in names.items()}
            final = [f"{_slug(arm)}_b{batch}_s{seed}" for seed in SEEDS[batch]]
            final = [results[name] for name in final if name in results]
            key = f"{arm}, batch {batch}"
            summary["search"][key] = {f"{rate:g}": score for rate, score in scores.items()}
            summary["arms"][key] = {
                "arm": arm,
                "batch": batch,
                "lr": best_rate(scores),
                "box_ap": mean_spread([result["box_ap"] for result in final]),
                "mask_ap": mean_spread([result["mask_ap"] for result in final]),
            }
    summary["verdicts"] = _verdicts(summary["arms"])
    return summary


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
    search = [
        [key, *(f"{scores[f'{rate:g}']:.3f}" for rate in RATES), f"{summary['arms'][key]['lr']:g}"]
        for key, scores in summary["search"].items()
    ]
    return "\n\n".join(
        [
            f"The demo's small Mask R-CNN (ResNet-18 of 16 channels, FPN, 128 x 128 pixels), from "
            f"scratch, AdamW, on one process. Every run sees {IMAGES} images: {IMAGES} steps at "
            f"batch 1, {IMAGES // 8} at batch 8, so that batch sizes differ in their steps too. "
            f"Norms are in backbone, FPN and both RoI heads. COCO AP on {DATA['val_images']} "
            f"held-out images, mean ± standard deviation over "
            + ", ".join(f"{len(SEEDS[batch])} seeds at batch {batch}" for batch in batches)
            + ". BCN+WS is the micro-batch form (EstBN) at every batch size.",
            table(heads, rows),
            f"The learning rate of each row: the best of {len(RATES)} by the mean of box and mask "
            f"AP after {SEARCH_IMAGES} images, with a seed that is none of the above, judged on "
            f"the same held-out images:",
            table(["", *(f"{rate:g}" for rate in RATES), "chosen"], search),
        ]
    )


def draw(summary: dict[str, Any], path: Path) -> None:
    """A panel for boxes and one for masks, a column of points for each arm and batch."""
    panels = {
        word: {
            f"batch {batch}": {
                a["arm"]: a[key]["values"] for a in _arms(summary) if a["batch"] == batch
            }
            for batch in SEEDS
        }
        for word, key in (("box AP", "box_ap"), ("mask AP", "mask_ap"))
    }
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
