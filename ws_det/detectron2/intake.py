"""What a trainer takes from a checkpoint: the one place where a file enters it.

torch's schedulers let a state replace any of their attributes, and its optimizers take whatever
they are given. Here each entry that a resume needs is named, and no other reaches them.
"""

from __future__ import annotations

from typing import Any

from detectron2.engine.hooks import LRScheduler

from ws_det.detectron2.trainer import AccumulatingTrainer
from ws_det.errors import InputError
from ws_det.intake import Intake


def admit(checkpoint: dict[str, Any], path: str, trainer: AccumulatingTrainer) -> dict[str, Any]:
    """What the parts of a run may take from a checkpoint.

    Args:
        checkpoint: With the weights under ``model``.
        path: Of its file.
        trainer: With the hooks of the run.

    Returns:
        Another one, with that alone.

    Raises:
        InputError: If an entry is not of this run, and could be none by mistake.
    """
    if "trainer" not in checkpoint:
        raise InputError(
            f"{path} has weights alone, no state of a run to resume: start from it with "
            f"train.init_checkpoint={path} (in a yaml config MODEL.WEIGHTS) and without --resume"
        )
    intake = Intake(path)
    taken = {"model": checkpoint["model"]}
    taken["trainer"] = _of_trainer(intake, checkpoint["trainer"], trainer)
    if "progress" in checkpoint:
        given = intake.table(checkpoint["progress"], "progress")
        batch = intake.batch(given.get("batch"), "progress.batch")
        steps = taken["trainer"]["iteration"] + 1
        images = intake.images(given.get("images"), steps, "progress.images")
        run = intake.count(given.get("run", 0), "progress.run")
        taken["progress"] = {"batch": batch, "images": images, "run": run}
    intake.leave("", (key for key in checkpoint if key not in taken.keys() | {"iteration"}))
    intake.tell()
    return taken


def _of_trainer(intake: Intake, given: Any, trainer: AccumulatingTrainer) -> dict[str, Any]:
    given = intake.table(given, "trainer")
    hooks = intake.table(given.get("hooks", {}), "trainer.hooks")
    with_state = [hook for hook in trainer._hooks if hasattr(hook, "load_state_dict")]
    known = {type(hook).__qualname__: hook for hook in reversed(with_state)}
    taken = {
        "iteration": intake.count(given.get("iteration"), "trainer.iteration"),
        "seed": intake.seed(given.get("seed", trainer.seed), "trainer.seed"),
        "optimizer": intake.optimizer(
            given.get("optimizer"), trainer.optimizer, "trainer.optimizer"
        ),
        "hooks": {key: state for key, state in hooks.items() if key in known},
    }
    if "scaler" in given:
        own = trainer.scaler.state_dict()
        taken["scaler"] = intake.scaler(given["scaler"], own, "trainer.scaler")
    for key, hook in known.items():
        if not isinstance(hook, LRScheduler):
            continue
        if own := hook.state_dict():
            taken["hooks"][key] = intake.like(hooks.get(key), own, f"trainer.hooks.{key}")
        for group in taken["optimizer"]["param_groups"]:
            if "initial_lr" not in group:  # the schedule begins with it
                raise intake.refuse("initial_lr", None, "there")
    intake.leave("trainer", (key for key in given if key not in taken))
    intake.leave("trainer.hooks", (key for key in hooks if key not in known))
    return taken
