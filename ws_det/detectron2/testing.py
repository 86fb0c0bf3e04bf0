"""Evaluate a detector on the test sets of a config, as it is and with test-time augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from detectron2.evaluation import (
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from torch import nn

from ws_det.detectron2.evaluator import CocoTwelveEvaluator, EveryResult
from ws_det.detectron2.evaluators import plan, tasks_of
from ws_det.detectron2.pictures import PicturesEvaluator
from ws_det.detectron2.recipe import Recipe, dataset_dicts
from ws_det.detectron2.tta import with_tta
from ws_det.errors import InputError
from ws_det.report import KINDS, report_of, together, write_json


def evaluate(
    recipe: Recipe, model: nn.Module, show_dir: str | None = None, suffix: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluate on each test set.

    Args:
        recipe: Of the config.
        model: The detector, in DDP or not.
        show_dir: Folder for pictures.
        suffix: Of the names of what is written.

    Returns:
        Detectron2's results in percent, and the report of the set, or of each of several.
    """
    results: dict[str, Any] = {}
    reports: dict[str, dict[str, Any]] = {}
    several = len(recipe.test_sets) > 1
    for name in recipe.test_sets:
        evaluators = [one.build(tasks_of(model)) for one in plan(recipe, name, suffix)]
        coco = [one for one in evaluators if isinstance(one, CocoTwelveEvaluator)]
        if show_dir:
            path = Path(show_dir, quote(name, safe="") if several else "", "predictions.png")
            evaluators.append(PicturesEvaluator(dataset_dicts(name), name, str(path)))
        if not evaluators:
            continue  # a config that says so
        loader = recipe.build_test_loader(name)
        found = inference_on_dataset(model, loader, EveryResult(evaluators))
        numbers = _numbers(found)
        if comm.is_main_process():
            print_csv_format(numbers)
        kinds = {kind: one.report[kind] for one in coco for kind in KINDS if kind in one.report}
        others = {task: values for task, values in found.items() if task not in kinds}
        images = next((one.report["images"] for one in coco if one.report), len(loader.dataset))
        reports[name] = report_of(kinds, images, others)
        results |= {name: numbers} if several else numbers
    report = together(reports)
    if report:
        write_json(Path(recipe.output_dir, f"coco_metrics{suffix}.json"), report)
    return results, report


def _numbers(results: Mapping[str, Any]) -> dict[str, Any]:
    """What Detectron2 can print and log of any results: numbers by task."""
    numbers: dict[str, Any] = {}
    for task, values in results.items():
        single = not isinstance(values, Mapping)
        flat: dict[str, float] = {}
        for key, value in flatten_results_dict({task: values} if single else values).items():
            with suppress(TypeError, ValueError, RuntimeError):
                flat[key] = float(value)
        numbers |= flat if single else {task: flat}
    return numbers


def evaluate_augmented(recipe: Recipe, model: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluate with test-time augmentation.

    Args:
        recipe: Of the config.
        model: The detector, in DDP or not.

    Returns:
        Detectron2's results, by names that end with ``_TTA``, and the report as ``"TTA"``.
    """
    results, report = evaluate(recipe, with_tta(recipe, model), suffix="_TTA")
    return {f"{name}_TTA": numbers for name, numbers in results.items()}, (
        {"TTA": report} if report else {}
    )


def verify(recipe: Recipe, results: dict[str, Any]) -> None:
    """Compare results with those that ``TEST.EXPECTED_RESULTS`` of a yaml config names.

    Args:
        recipe: Of the config.
        results: As :func:`evaluate` returns them.

    Raises:
        InputError: On the first process, if they are others.
    """
    if not recipe.expected or not comm.is_main_process():
        return
    try:
        verify_results(recipe.cfg, results)
    except (KeyError, SystemExit):  # the second is how Detectron2 ends
        raise InputError(
            f"the results are not those of TEST.EXPECTED_RESULTS: see {recipe.output_dir}/log.txt, "
            f"and leave them out ([]) if they are for another run"
        ) from None
