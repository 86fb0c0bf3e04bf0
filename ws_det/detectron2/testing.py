"""Evaluate a detector on the test sets of a config, as it is and with test-time augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from detectron2.evaluation import (
    DatasetEvaluators,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.utils import comm
from torch import nn

from ws_det.detectron2.evaluator import CocoTwelveEvaluator
from ws_det.detectron2.pictures import PicturesEvaluator
from ws_det.detectron2.recipe import Recipe, dataset_dicts
from ws_det.detectron2.tta import with_tta
from ws_det.errors import InputError
from ws_det.report import write_json


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
        Detectron2's results in percent, and the report of the first test set.
    """
    results: dict[str, Any] = {}
    report: dict[str, Any] = {}
    for name in recipe.test_sets:
        whole = getattr(model, "module", model)
        masks = getattr(getattr(whole, "roi_heads", None), "mask_on", False)
        tasks = ("bbox", "segm") if masks else ("bbox",)
        coco = CocoTwelveEvaluator(name, tasks, f"{recipe.output_dir}/inference{suffix}")
        evaluators = [coco]
        if show_dir:
            folder = quote(name, safe="") if len(recipe.test_sets) > 1 else ""
            path = Path(show_dir, folder, "predictions.png")
            evaluators.append(PicturesEvaluator(dataset_dicts(name), name, str(path)))
        found = inference_on_dataset(
            model, recipe.build_test_loader(name), DatasetEvaluators(evaluators)
        )
        if comm.is_main_process():
            print_csv_format(found)
            report = report or coco.report
        results |= found if len(recipe.test_sets) == 1 else {name: found}
    if report:
        write_json(Path(recipe.output_dir, f"coco_metrics{suffix}.json"), report)
    return results, report


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
