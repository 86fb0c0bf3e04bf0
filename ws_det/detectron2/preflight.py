"""Everything that can be checked before the first process is started or file is written."""

from __future__ import annotations

import logging
import os.path as osp
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn

from ws_det import fit
from ws_det.checkpoint import below, load_checkpoint
from ws_det.checks import check_gpus, check_writable
from ws_det.detectron2.copies import read_for_now
from ws_det.detectron2.data import check_sets
from ws_det.detectron2.evaluators import check_evaluators
from ws_det.detectron2.placing import is_pretrained, split_query, trunk
from ws_det.detectron2.proposals import check_proposals
from ws_det.detectron2.recipe import Recipe, YamlRecipe
from ws_det.detectron2.set_files import Findings
from ws_det.detectron2.stream import check_workers
from ws_det.detectron2.trial import try_loaders
from ws_det.detectron2.tta import check_tta
from ws_det.detectron2.weights import loaded_model, local_file, model_in, resume_point
from ws_det.errors import InputError, first_line
from ws_det.guard import check_on_nan

OUTPUT_DIR = "train.output_dir=DIR (in a yaml config OUTPUT_DIR DIR)"  # what gives the folder


def check(
    recipe: Recipe, processes: int, machines: int, *, resume: bool, test: bool, force: bool = False
) -> Findings:
    """Check a recipe for a run.

    Args:
        recipe: Of the config.
        processes: On this machine.
        machines: Their number.
        resume: Whether a run is to be taken up.
        test: Whether to evaluate alone.
        force: Only warn of weights trained in another way.

    Returns:
        What was found in its sets, for ``write_copies``.

    Raises:
        InputError: For the first fault found, cheap checks first.
    """
    if processes < 1:
        raise InputError(f"--num-gpus {processes}: give at least 1, also without a GPU")
    check_gpus(processes, torch.cuda.device_count())
    check_writable(recipe.output_dir, OUTPUT_DIR)
    try:
        torch.device(recipe.device)
    except (RuntimeError, TypeError):
        raise InputError(
            f"there is no device {recipe.device!r}: give train.device (in a yaml config "
            f"MODEL.DEVICE) cuda or cpu"
        ) from None
    for place, settings in recipe.workers().items():
        check_workers(place, settings)
    if not test:
        _check_training(recipe, processes * machines)
    wants = recipe.wants()
    wants = wants._replace(train_sets=()) if test else wants
    sets = [*wants.train_sets, *wants.test_sets]
    if test and not sets:
        raise InputError("the config has no set to test on: give it one or pass --data-root FOLDER")
    _check_expected(recipe.expected, recipe.test_sets)
    found = check_sets(sets, recipe.num_classes(), wants)
    if isinstance(recipe, YamlRecipe):
        with read_for_now(found) if recipe.cfg.MODEL.LOAD_PROPOSALS else nullcontext():
            check_proposals(recipe.cfg, test=test)
    found.notes.extend(check_evaluators(recipe))
    with _one_sentence("loader of images"):
        try_loaders(recipe, found, wants.train_sets)
    model = build_model(recipe)
    if recipe.tta["enabled"]:
        check_tta(model)
    if not test:
        _check_solver(recipe, model)
    last = resume_point(recipe.output_dir) if resume and not test else None
    if test or last:
        path = recipe.weights if test else last
        if not path:
            raise InputError(f"there are no weights to evaluate: give {recipe.checkpoint_option}")
        _check_weights(recipe, model, path, whole=True, force=force)
    elif recipe.weights:
        _check_weights(recipe, model, recipe.weights, whole=False, force=force)
    return found


def _check_training(recipe: Recipe, processes: int) -> None:
    if recipe.batch_size % processes or not recipe.batch_size:
        raise InputError(
            f"a total batch of {recipe.batch_size} images does not divide among {processes} "
            f"processes: set dataloader.train.total_batch_size (in a yaml config "
            f"SOLVER.IMS_PER_BATCH) to a multiple of {processes}"
        )
    if recipe.accumulation < 1:
        raise InputError(f"accumulation over {recipe.accumulation} steps: give 1 or more")
    if recipe.max_norm is not None and not _is_norm(recipe.max_norm):
        raise InputError(
            f"a gradient's norm of at most {recipe.max_norm}: give train.clip_grad.max_norm (in a "
            f"yaml config SOLVER.CLIP_GRAD_NORM) a number above 0"
        )
    if recipe.precise_bn is not None and recipe.precise_bn < 1:
        raise InputError(f"TEST.PRECISE_BN.NUM_ITER={recipe.precise_bn}: give 1 or more")
    check_on_nan(recipe.on_nan)
    if recipe.amp and not torch.cuda.is_available():
        raise InputError(
            "automatic mixed precision needs a GPU: leave out train.amp.enabled=True (in a yaml "
            "config SOLVER.AMP.ENABLED True)"
        )


def _is_norm(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _check_expected(expected: Sequence[Any], sets: Sequence[str]) -> None:
    kinds = [str, str, (int, float), (int, float)]  # task, metric, value, tolerance
    for given in expected:
        fits = isinstance(given, (list, tuple)) and len(given) == len(kinds)
        if not sets or not fits or not all(map(isinstance, given, kinds)):
            raise InputError(
                f"TEST.EXPECTED_RESULTS has {given!r}: give lists of task, metric, value and "
                f"tolerance, and DATASETS.TEST"
            )


def _check_solver(recipe: Recipe, model: nn.Module) -> None:
    period = recipe.checkpoint["period"]
    if not isinstance(period, (int, float)) or period < 1:
        raise InputError(
            f"a checkpoint every {period} iterations: give train.checkpointer.period (in a yaml "
            f"config SOLVER.CHECKPOINT_PERIOD) 1 or more"
        )
    with _one_sentence("optimizer or its schedule"):
        schedule = recipe.build_schedule(recipe.build_optimizer(model))
        rates = getattr(schedule, "_multiplier", schedule)
        if isinstance(rates, ParamScheduler):
            rates(1.0)  # which it is asked for after the last step


def _check_weights(
    recipe: Recipe, model: nn.Module, reference: str, *, whole: bool, force: bool
) -> None:
    path = local_file(reference)
    remedy = (
        f"give weights trained with WS, or train from scratch with an empty "
        f"{recipe.checkpoint_option.split('=')[0].split()[0]}"
    )
    if osp.splitext(path)[1] == ".pkl":
        # Detectron2 matches their names to the model's by heuristics, and says which it misses.
        state = model_in(load_checkpoint(path))["model"]
        fit.check_family(trunk(model)[1], state, reference, remedy, force=force)
        return
    state = loaded_model(path, model, by_names=split_query(reference)[1])["model"]
    prefix, network = trunk(model)
    if whole:
        fit.check_whole(model, state, reference, remedy, force=force)
    elif is_pretrained(state, model):
        fit.check_backbone(network, below(state, prefix), reference, remedy, force=force)
    else:
        fit.check_start(model, state, reference, remedy, force=force)


def build_model(recipe: Recipe) -> nn.Module:
    """The model of a recipe, on the CPU and without its weights.

    Raises:
        InputError: If it cannot be built.
    """
    with _one_sentence("model"):
        return recipe.build_model()


@contextmanager
def _one_sentence(part: str) -> Iterator[None]:
    logger = logging.getLogger("detectron2.config.instantiate")  # which names the part before
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # what is built may be the user's own
        plain = isinstance(error, (AssertionError, AttributeError, KeyError, TypeError, ValueError))
        kind = f"{type(error).__name__}: " if plain else ""
        raise InputError(
            f"the config's {part} cannot be built "
            f"({kind}{first_line(error if plain else error.__cause__ or error)}): correct it"
        ) from error
    finally:
        logger.disabled = disabled
