"""Evaluate predictions on COCO annotations."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ws_det.errors import InputError, warn
from ws_det.evaluation.backends import BACKENDS, Arrays, choose
from ws_det.evaluation.files import evaluate_files
from ws_det.evaluation.inputs import read_predictions, read_truth
from ws_det.evaluation.numbering import FIELDS, number_predictions, number_truth
from ws_det.evaluation.progress import Progress
from ws_det.evaluation.result import Result, class_aps, summarize
from ws_det.report import KINDS, PLURALS

_HEAD = 2**20  # bytes of a file in which the first predictions are
Predictions = str | Path | Sequence[Mapping[str, Any]]


def evaluate(
    truth: str | Path | Mapping[str, Any],
    predictions: Predictions | Mapping[str, Predictions],
    kinds: Sequence[str] | None = None,
    backend: str = "auto",
    image_ids: Collection[Any] | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Result]:
    """COCO's numbers, the same from every back end.

    Args:
        truth: COCO annotations, or the path of their file. Sizes are judged by their ``area``.
        predictions: COCO results, or the path of their file, or these by kind. Sizes are judged
            by the box for ``"bbox"``, by the mask for ``"segm"``.
        kinds: ``"bbox"`` and ``"segm"``; by default all that the predictions have.
        backend: One of ``BACKENDS``, or ``"auto"`` for the fastest that is installed.
        image_ids: Evaluate these images only.
        say: Told how far an evaluation of more than ten seconds is; by default on stderr.

    Returns:
        A result for each kind.

    Raises:
        InputError: If a file is missing, damaged, or does not belong to the other, if a value is no
            number, or if the back end is not there.
    """
    chosen = choose(backend)
    by_kind = _by_kind(predictions, kinds)
    files = _Files()
    results = {}
    for kind, found in by_kind.items():
        evaluated = None
        if chosen == "hotcoco" and image_ids is None:
            evaluated = files.evaluate_unread(truth, found, kind)
        if evaluated is None:
            mended = files.read(truth, lambda source: _truth(source, "segm" in by_kind))
            known = number_truth(mended, kind, image_ids)
            numbered = number_predictions(files.read(found, read_predictions), known, kind)
            progress = Progress(f"evaluating {PLURALS[kind]}", say)
            arrays = BACKENDS[chosen].run(known.content, numbered, kind, progress)
            evaluated = arrays, known.names, len(known.sizes)
        (precision, recall), names, images = evaluated
        results[kind] = Result(
            kind,
            summarize(precision, recall),
            class_aps(precision, names),
            precision,
            names,
            chosen,
            images,
        )
    return results


class _Files:
    """Reads each file once, and mends the truth once, for both kinds."""

    def __init__(self) -> None:
        self._content: dict[str | int, Any] = {}

    def read(self, source: Any, reader: Callable[[Any], Any]) -> Any:
        key = str(source) if isinstance(source, (str, Path)) else id(source)
        if key not in self._content:
            self._content[key] = reader(source)
        return self._content[key]

    def evaluate_unread(
        self, truth: Any, found: Any, kind: str
    ) -> tuple[Arrays, list[str], int] | None:
        paths = [str(source) for source in (truth, found) if isinstance(source, (str, Path))]
        # A pipe, which one of the reads would wait for, is refused in Python.
        if len(paths) < 2 or paths[1] in self._content or not all(map(os.path.isfile, paths)):
            return None
        return evaluate_files(*paths, kind)


def _truth(source: Any, masks: bool) -> dict[str, Any]:
    mended = read_truth(source, masks)
    if mended.notes and isinstance(source, (str, Path)):
        warn(mended.describe(str(source)))
    return mended.content


def _by_kind(predictions: Any, kinds: Sequence[str] | None) -> dict[str, Predictions]:
    kinds = kinds or kinds_of(predictions)
    if isinstance(predictions, Mapping):
        by_kind = {kind: predictions.get(kind) for kind in kinds}
    else:
        by_kind = dict.fromkeys(kinds, predictions)
    for kind, found in by_kind.items():
        if kind not in KINDS or found is None:
            there = predictions if isinstance(predictions, Mapping) else KINDS
            raise InputError(f"there is nothing to evaluate as {kind!r}: use {' or '.join(there)}")
    return by_kind


def kinds_of(predictions: Predictions | Mapping[str, Predictions]) -> list[str]:
    """What the first predictions have; boxes if there are none."""
    if isinstance(predictions, (str, Path)):
        head = b""
        with suppress(OSError):  # read_predictions says which
            if Path(predictions).is_file():
                with Path(predictions).open("rb") as file:
                    head = file.read(_HEAD)
        there = [kind for kind, field in FIELDS.items() if f'"{field}"'.encode() in head]
    elif isinstance(predictions, Mapping):
        return [*predictions]
    else:
        there = [kind for kind, field in FIELDS.items() if field in (predictions or [()])[0]]
    return there or ["bbox"]
