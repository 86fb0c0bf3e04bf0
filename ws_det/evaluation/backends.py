"""The back ends: the reference, and two that compute the same numbers faster."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from ws_det.errors import InputError
from ws_det.evaluation.progress import Progress

if TYPE_CHECKING:
    import numpy as np

Arrays = tuple["np.ndarray", "np.ndarray"]
REFERENCE = "pycocotools"
_threads_of: int | None = None  # the process in which hotcoco has threads; a fork has none of them


class Backend(NamedTuple):
    """One way to evaluate.

    Attributes:
        module: What is imported.
        oldest: The oldest version whose numbers were compared with the reference's.
        run: Truth and predictions as ``numbering`` gives them and a kind, to the arrays of
            precision and recall.
    """

    module: str
    oldest: str
    run: Callable[[dict[str, Any], list[dict[str, Any]], str, Progress], Arrays]


def choose(name: str) -> str:
    """The back end to use.

    Args:
        name: Of one, or ``"auto"`` for the fastest that is installed.

    Returns:
        Its name.

    Raises:
        InputError: If it is unknown, not installed, or older than what was compared.
    """
    if name == "auto":
        there = [name for name in BACKENDS if _why_not(name) is None]
        if there:
            return there[0]
        name = REFERENCE
    if name not in BACKENDS:
        raise InputError(
            f"there is no evaluation back end {name!r}: use auto, {', '.join(BACKENDS)}"
        )
    why = _why_not(name)
    if why:
        raise InputError(why)
    return name


def _why_not(name: str) -> str | None:
    backend = BACKENDS[name]
    remedy = f'pip install "{name}>={backend.oldest}"'
    try:
        module = import_module(backend.module)
    except ImportError as error:
        return f"the evaluation back end {name} does not import ({error}): {remedy}"
    version = getattr(module, "__version__", backend.oldest)  # pycocotools has none
    if _numbers(version) < _numbers(backend.oldest):
        return f"{name} {version} is too old to give pycocotools' numbers: {remedy}"
    if name == "hotcoco" and _threads_of not in (None, os.getpid()):
        return (
            "hotcoco would wait for threads of the process that this one was forked from: spawn it"
        )
    return None


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def _hotcoco(
    truth: dict[str, Any], found: list[dict[str, Any]], kind: str, progress: Progress
) -> Arrays:
    from hotcoco import COCO

    known = COCO(truth)
    return hotcoco_arrays(known, known.load_res(found), kind)


def hotcoco_arrays(truth: Any, found: Any, kind: str) -> Arrays:
    """Precision and recall of two of hotcoco's COCO objects."""
    from hotcoco import COCOeval

    global _threads_of
    _threads_of = os.getpid()
    evaluation = COCOeval(truth, found, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    accumulated = evaluation.eval
    return accumulated["precision"], accumulated["recall"]


def _faster_coco_eval(
    truth: dict[str, Any], found: list[dict[str, Any]], kind: str, progress: Progress
) -> Arrays:
    from faster_coco_eval import COCO, COCOeval_faster

    class Told(COCOeval_faster):
        def computeIoU(self, *pair: int) -> Any:
            progress.step(len(self._nonempty_iou_pairs))
            return super().computeIoU(*pair)

    known = COCO(truth)
    evaluation = Told(known, known.loadRes(found), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    accumulated = evaluation.eval
    return accumulated["precision"], accumulated["recall"]


def _pycocotools(
    truth: dict[str, Any], found: list[dict[str, Any]], kind: str, progress: Progress
) -> Arrays:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    class Told(COCOeval):
        def computeIoU(self, *pair: Any) -> Any:
            progress.step(self.steps)
            return super().computeIoU(*pair)

        def evaluateImg(self, *cell: Any) -> Any:
            progress.step(self.steps)
            return super().evaluateImg(*cell)

    with redirect_stdout(io.StringIO()):  # it prints; the report has a table
        known, results = COCO(), COCO()
        known.dataset = truth
        known.createIndex()
        if found:
            results = known.loadRes(found)
        else:  # loadRes looks at the first to know their kind
            results.dataset = {**truth, "annotations": []}
            results.createIndex()
        evaluation = Told(known, results, kind)
        params = evaluation.params
        evaluation.steps = len(params.imgIds) * len(params.catIds) * (1 + len(params.areaRng))
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


# The fastest first.
BACKENDS = {
    "hotcoco": Backend("hotcoco", "1.3", _hotcoco),
    "faster-coco-eval": Backend("faster_coco_eval", "1.8", _faster_coco_eval),
    REFERENCE: Backend("pycocotools.cocoeval", "2.0.7", _pycocotools),
}
