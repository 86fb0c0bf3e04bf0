"""What an evaluation of COCO val's size costs with each back end, from two files to the numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from ws_det.bench.detections import write_set
from ws_det.bench.rounds import Comparison, Target
from ws_det.errors import InputError
from ws_det.evaluation import evaluate
from ws_det.evaluation.backends import BACKENDS, REFERENCE, choose
from ws_det.evaluation.numbering import FIELDS
from ws_det.evaluation.progress import Progress
from ws_det.evaluation.result import summarize
from ws_det.report import PLURALS

IMAGES, DETECTIONS = 5000, 100  # COCO val2017 has 5000 images and 36,781 objects
# How many times as fast as pycocotools the fastest is to be.
LIMITS = {"bbox": 50, "segm": 10}
TOLERANCE = 1e-9  # sums in another order; a report shows three digits


def compare_evaluation(kind: str, quick: bool = False) -> Comparison:
    """Read annotations and predictions from JSON and compute COCO's numbers.

    The reference is pycocotools called as its own demo does, not through ws_det. The arms compare
    their numbers with it while they are timed: a second run of it would cost a minute.

    Args:
        kind: ``"bbox"`` or ``"segm"``.
        quick: With few images instead.
    """
    images, detections = (20, 10) if quick else (IMAGES, DETECTIONS)
    folder = TemporaryDirectory()  # removed with the arms, which hold it
    truth, found = Path(folder.name, "truth.json"), Path(folder.name, "found.json")
    objects = write_set(truth, found, images, detections, masks=kind == "segm")
    seen: dict[str, float] = {}

    def agreeing(numbers: Callable[[], dict[str, float]]) -> Callable[[], None]:
        def arm(_: TemporaryDirectory = folder) -> None:
            for name, value in numbers().items():
                if abs(seen.setdefault(name, value) - value) > TOLERANCE:
                    raise RuntimeError(f"{name} is {value}, not {seen[name]} as before")

        return arm

    arms = {REFERENCE: agreeing(lambda: _reference(truth, found, kind))}
    skipped = {}
    for name in reversed(BACKENDS):
        arm = f"ws_det, {name}"
        try:
            choose(name)
        except InputError as error:
            skipped[arm] = str(error)
        else:
            if name != REFERENCE:
                arms[arm] = agreeing(
                    lambda name=name: evaluate(truth, found, [kind], name)[kind].stats
                )
    fastest = list(arms)[-1]
    return Comparison(
        f"Evaluate {PLURALS[kind]} of {images} images, {objects} objects, "
        f"{images * detections} detections",
        arms,
        baseline=REFERENCE,
        targets=[Target(fastest, REFERENCE, 1 / LIMITS[kind])],
        skipped=skipped,
        images=images,
        warmup=0,
    )


def _reference(truth: Path, found: Path, kind: str) -> dict[str, float]:
    known, detections = (json.loads(path.read_bytes()) for path in (truth, found))
    for detection in detections if kind == "segm" else ():
        del detection[FIELDS["bbox"]]  # else sizes are judged by the box
    progress = Progress(f"pycocotools, {PLURALS[kind]}")
    return summarize(*BACKENDS[REFERENCE].run(known, detections, kind, progress))
