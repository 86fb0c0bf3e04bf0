"""One self-contained HTML page of an evaluation, or of two side by side."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from ws_det.errors import printable
from ws_det.evaluation.inputs import read_predictions
from ws_det.evaluation.numbering import lookup
from ws_det.evaluation.report_choice import Kept, choose
from ws_det.evaluation.report_errors import sort_errors
from ws_det.evaluation.report_numbers import CURVES, by_class, result_numbers, truth_numbers
from ws_det.evaluation.report_pictures import picture
from ws_det.evaluation.result import Result
from ws_det.files import write_text

_GROUPS = {1: ("worst", "best"), 2: ("gained", "lost")}  # of pictures, by the number of runs


@dataclass(frozen=True)
class Run:
    """What one detector found in a set.

    Attributes:
        name: What the page calls it: a config, or the file of predictions.
        results: Of the evaluation, by kind.
        predictions: In COCO's results format, by kind.
    """

    name: str
    results: Mapping[str, Result]
    predictions: Mapping[str, Sequence[Mapping[str, Any]]]

    @classmethod
    def of(cls, name: str, results: Mapping[str, Result], found: Any) -> Run:
        """The run of predictions as ``evaluate`` takes them: by kind, for all kinds, or a file."""
        if isinstance(found, Mapping):
            return cls(name, results, {kind: found[kind] for kind in results})
        return cls(name, results, dict.fromkeys(results, read_predictions(found)))


def write_report(
    path: str | Path,
    truth: Mapping[str, Any],
    runs: Sequence[Run],
    annotations: str,
    images: str | Path | None = None,
) -> None:
    """Write the page; it needs no network and no other file.

    Args:
        path: HTML file to write.
        truth: The content of the annotation file.
        runs: One, or two to compare, evaluated on ``truth`` in the same kinds.
        annotations: What the page calls the truth.
        images: Folder of the images; without it the page has no pictures.

    Raises:
        InputError: If an image cannot be read, or the page cannot be written.
    """
    write_text(path, page(report_content(truth, runs, annotations, images)))


def report_content(
    truth: Mapping[str, Any],
    runs: Sequence[Run],
    annotations: str,
    images: str | Path | None = None,
) -> dict[str, Any]:
    """All that the page shows, as JSON holds it. See ``write_report``."""
    truth = _without_strays(truth)
    kinds = [kind for kind in ("bbox", "segm") if all(kind in run.results for run in runs)]
    found = {
        kind: [sort_errors(truth, run.predictions[kind], kind) for run in runs] for kind in kinds
    }
    numbers = {
        kind: [
            {
                **result_numbers(run.results[kind], sorted_),
                "detections": by_class(truth, run.predictions[kind]),
            }
            for run, sorted_ in zip(runs, found[kind])
        ]
        for kind in kinds
    }
    shown = kinds[-1]  # masks, where there are any
    kept = [
        Kept(run.predictions[shown], sorted_, number["best"]["threshold"])
        for run, sorted_, number in zip(runs, found[shown], numbers[shown])
    ]
    return {
        "annotations": annotations,
        "truth": truth_numbers(truth, runs[0].results[shown].class_names),
        "runs": [
            {
                "name": run.name,
                "backend": run.results[shown].backend,
                "detections": len(run.predictions[shown]),
            }
            for run in runs
        ],
        "kinds": kinds,
        "curves": CURVES,
        "numbers": numbers,
        "pictures": None if images is None else _pictures(truth, kept, Path(images), shown),
    }


def page(content: Mapping[str, Any]) -> str:
    """The HTML of a page from what it shows."""
    folder = files("ws_det.evaluation") / "page"
    parts = {name: (folder / f"report.{name}").read_text("utf-8") for name in ("html", "css", "js")}
    # ASCII, and no "<": a class called "</script>" must not end the element that the JSON is in.
    data = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    title = " and ".join(run["name"] for run in content["runs"])
    return Template(parts["html"]).substitute(
        title=html.escape(printable(f"{title}: COCO evaluation")),
        style=parts["css"],
        script=parts["js"],
        data=data,
    )


def _without_strays(truth: Mapping[str, Any]) -> dict[str, Any]:
    """Annotations of images and categories that there are, and each image once."""
    images = {image["id"]: image for image in truth["images"]}
    categories = {category["id"]: category for category in truth["categories"]}
    annotations = [
        thing
        for thing in truth.get("annotations", ())
        if lookup(images, thing.get("image_id")) and lookup(categories, thing.get("category_id"))
    ]
    return {**truth, "images": list(images.values()), "annotations": annotations}


def _pictures(
    truth: Mapping[str, Any], runs: Sequence[Kept], folder: Path, kind: str
) -> dict[str, Any]:
    entries = {image["id"]: image for image in truth["images"]}
    groups: dict[str, list] = {name: [] for name in _GROUPS[len(runs)]}
    for group, image_id, f1, errors in choose(truth, runs):
        drawn = picture(truth, entries[image_id], folder, runs)
        groups[group].append({**drawn, "f1": [round(x, 4) for x in f1], "errors": errors})
    return {"kind": kind, "groups": groups}
