"""Detectron2's learning rate where the number of images of a step is another than the config's."""

from __future__ import annotations

from detectron2.engine import DefaultTrainer

from ws_det.batch import Batch
from ws_det.detectron2.recipe import Recipe, YamlRecipe
from ws_det.errors import InputError
from ws_det.masks import is_finite
from ws_det.scaling import learning_rate


def follow_batch(recipe: Recipe, processes: int, auto_scale_lr: bool) -> tuple[Recipe, str]:
    """Scale the learning rate if asked to, and say how it comes about.

    A config's learning rate is for the config's own images of a step; what ``KEY=VALUE`` options
    made of them may differ. The number of iterations, the warm-up and the steps stay. A yaml
    config with ``SOLVER.REFERENCE_WORLD_SIZE`` is scaled as Detectron2 scales it: batch, rate and
    schedule follow the number of processes.

    Args:
        recipe: Of the config, with options.
        processes: Of the whole training.
        auto_scale_lr: Whether to follow the linear rule.

    Returns:
        The recipe, which may have changed, and the line to print.

    Raises:
        InputError: If the two ways to scale are asked for together, or cannot be followed.
    """
    if isinstance(recipe, YamlRecipe) and recipe.cfg.SOLVER.REFERENCE_WORLD_SIZE:
        recipe = _follow_processes(recipe, processes, auto_scale_lr)
    rate, base = recipe.learning_rate, recipe.base_batch
    if rate is None:
        if auto_scale_lr:
            raise InputError("--auto-scale-lr finds no optimizer.lr in the config: give it one")
        return recipe, "learning rate as the optimizer has it"
    if not is_finite(rate):
        raise InputError(
            f"the learning rate {rate!r} is no number: give optimizer.lr (in a yaml config "
            f"SOLVER.BASE_LR) one"
        )
    batch = Batch(processes, recipe.batch_size // processes, recipe.accumulation)
    rate, line = learning_rate(rate, batch, base, scale=auto_scale_lr)
    if auto_scale_lr:
        recipe.learning_rate = rate
    return recipe, line


def _follow_processes(recipe: YamlRecipe, processes: int, auto_scale_lr: bool) -> YamlRecipe:
    solver = recipe.cfg.SOLVER
    reference = solver.REFERENCE_WORLD_SIZE
    if auto_scale_lr:
        raise InputError(
            f"SOLVER.REFERENCE_WORLD_SIZE={reference} scales the learning rate already: leave out "
            f"--auto-scale-lr, or set it to 0"
        )
    if solver.IMS_PER_BATCH % reference:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH={solver.IMS_PER_BATCH} does not divide among "
            f"SOLVER.REFERENCE_WORLD_SIZE={reference}: give a multiple, or 0 for no scaling"
        )
    return YamlRecipe(DefaultTrainer.auto_scale_workers(recipe.cfg, processes))
