"""Which images the report page shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ws_det.evaluation.report_errors import CORRECT, Sorted

COUNT = 6  # pictures in a group


class Kept(NamedTuple):
    """The detections of one run, sorted, and the score from which on they count."""

    predictions: Sequence[Mapping[str, Any]]
    found: Sorted
    threshold: float


class Choice(NamedTuple):
    """An image to show; its F1 and its number of errors in each run."""

    group: str
    image_id: Any
    f1: list[float]
    errors: list[int]


def choose(truth: Mapping[str, Any], runs: Sequence[Kept]) -> list[Choice]:
    """Choose the images to show, by what each run keeps.

    Args:
        truth: The content of an annotation file.
        runs: One or two.

    Returns:
        For one run the images with the lowest F1 (of equals, those with more errors) as
        ``worst`` and with the highest (of equals, those with more objects) as ``best``. For two
        runs those on which the second makes most errors fewer, ``gained``, and more, ``lost``.
        Images without object and detection are left out.
    """
    tallies = [_tally(truth, run) for run in runs]
    images = []
    for image in truth["images"]:
        rows = [tally[image["id"]] for tally in tallies]
        if any(kept + asked for _, kept, asked in rows):
            f1 = [2 * hits / max(kept + asked, 1) for hits, kept, asked in rows]
            errors = [kept + asked - 2 * hits for hits, kept, asked in rows]
            images.append((rows[0][2], Choice("", image["id"], f1, errors)))
    if len(runs) == 2:
        change = [(c.errors[1] - c.errors[0], c) for _, c in images]
        change.sort(key=lambda entry: entry[0])
        groups = {
            "gained": [c for difference, c in change if difference < 0],
            "lost": [c for difference, c in reversed(change) if difference > 0],
        }
    else:
        images.sort(key=lambda entry: (entry[1].f1[0], -entry[1].errors[0]))
        worst = [entry for entry in images if entry[1].errors[0]][:COUNT]
        rest = [entry for entry in images if entry not in worst and entry[1].f1[0]]
        rest.sort(key=lambda entry: (-entry[1].f1[0], -entry[0]))
        groups = {"worst": [c for _, c in worst], "best": [c for _, c in rest]}
    return [c._replace(group=name) for name, group in groups.items() for c in group[:COUNT]]


def _tally(truth: Mapping[str, Any], run: Kept) -> dict[Any, tuple[int, int, int]]:
    """Of each image how many detections are correct, how many there are, and how many objects."""
    predictions, found, threshold = run
    hits, kept = Counter(), Counter()
    for index, score, outcome in zip(found.detections, found.score, found.outcome):
        if score >= threshold:
            kept[predictions[index]["image_id"]] += 1
            hits[predictions[index]["image_id"]] += int(outcome == CORRECT)
    asked = Counter(truth["annotations"][index]["image_id"] for index in found.objects)
    keys = [image["id"] for image in truth["images"]]
    return {key: (hits[key], kept[key], asked[key]) for key in keys}
