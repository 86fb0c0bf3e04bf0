"""What MMEngine's runner takes from a checkpoint: the one place where a file enters it.

MMEngine runs the string in ``meta.config``, deletes the path in ``best_ckpt``, and lets a state
replace any attribute of a scheduler. Here each entry that a resume needs is named, and no other
reaches the runner or its hooks.
"""

from __future__ import annotations

import os.path as osp
import re
from math import isfinite
from pathlib import Path
from typing import Any

from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

from ws_det.checkpoint import state_dict_of
from ws_det.errors import InputError
from ws_det.intake import Intake, is_name

RUN = "ws_det_run"
# MMEngine writes these again in every run.
_META_OF_A_RUN = {"cfg", "experiment_name", "mmengine_version", "time"}
_INFO_OF_A_RUN = _META_OF_A_RUN | {
    *("seed", "loop_stage", "epoch", "iter", "max_epochs", "max_iters", "dataset_meta"),
    *("last_ckpt", "eta"),
}
_METRICS = ("train/", "val/", "test/")


def admit(runner: Runner, checkpoint: dict[str, Any], resumed: str | None) -> None:
    """Leave in a checkpoint what a runner may take from it, before any hook sees it.

    A hook of the user's own names the entries that it has written in ``checkpoint_keys``.

    Args:
        runner: Ready to train or test.
        checkpoint: As ``load_safely`` returns it, changed in place.
        resumed: The path, if a run is taken up; else the weights alone are left.

    Raises:
        InputError: If an entry is not of this run, and could be none by mistake.
    """
    taken: dict[str, Any] = {"state_dict": state_dict_of(checkpoint)}
    if resumed:
        intake = Intake(resumed)
        taken |= _of_run(intake, runner, checkpoint)
        if runner.rank == 0:
            intake.tell()
    checkpoint.clear()
    checkpoint.update(taken)


def place_of(checkpoint: dict[str, Any], intake: Intake) -> dict[str, Any]:
    """The ``meta`` that a resume needs: where the run was.

    Raises:
        InputError: If the checkpoint has only weights, or says what cannot be.
    """
    meta = checkpoint.get("meta")
    has_place = isinstance(meta, dict) and {"epoch", "iter"} <= meta.keys()
    if not has_place or "optimizer" not in checkpoint:
        raise InputError(
            f"{intake.path} has weights alone, no state of a run to resume: start from it with "
            f"--cfg-options load_from={intake.path}"
        )
    taken = {key: intake.count(meta[key], f"meta.{key}") for key in ("epoch", "iter")}
    taken["seed"] = intake.seed(meta.get("seed"), "meta.seed")
    taken["dataset_meta"] = meta.get("dataset_meta")  # compared, and no more
    if RUN in meta:
        run = intake.table(meta[RUN], f"meta.{RUN}")
        counts = {key: run[key] for key in ("epoch_iters", "position", "run") if key in run}
        taken[RUN] = {key: intake.count(n, f"meta.{RUN}.{key}") for key, n in counts.items()}
        intake.images(counts.get("position", 0), taken["iter"], f"meta.{RUN}.position")
        taken[RUN]["batch"] = intake.batch(run.get("batch"), f"meta.{RUN}.batch")
    intake.leave("meta", (key for key in meta if key not in taken.keys() | _META_OF_A_RUN))
    return taken


def _of_run(intake: Intake, runner: Runner, checkpoint: dict[str, Any]) -> dict[str, Any]:
    own = {key for hook in runner.hooks for key in getattr(hook, "checkpoint_keys", ())}
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    taken = {key: checkpoint[key] for key in own if key in checkpoint}
    taken["meta"] = place_of(checkpoint, intake)
    hub = intake.table(checkpoint.get("message_hub", {}), "message_hub")
    taken["message_hub"] = _message_hub(intake, runner, hub, own)
    taken["optimizer"] = _optimizer(intake, checkpoint["optimizer"], runner.optim_wrapper)
    if runner.param_schedulers:
        given = checkpoint.get("param_schedulers")
        taken["param_schedulers"] = intake.like(given, _states(runner), "param_schedulers")
    if "gradients" in checkpoint:
        parameters = dict(model.named_parameters())
        taken["gradients"] = intake.tensors(checkpoint["gradients"], parameters, "gradients")
    if "ema_state_dict" in checkpoint:
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                state, name = hook.ema_model.state_dict(), "ema_state_dict"
                taken[name] = intake.tensors(checkpoint[name], state, name)
    known = taken.keys() | {"state_dict", "param_schedulers"}
    intake.leave("", (key for key in checkpoint if key not in known))
    return taken


def _optimizer(intake: Intake, given: Any, wrapper: Any, name: str = "optimizer") -> dict[str, Any]:
    given = intake.table(given, name)
    if isinstance(wrapper, OptimWrapperDict):
        names = wrapper.optim_wrappers.items()
        return {key: _optimizer(intake, given.get(key), one, key) for key, one in names}
    taken = intake.optimizer(given, wrapper.optimizer, name)
    own = wrapper.state_dict()
    if "base_param_settings" in own and "base_param_settings" in given:
        place = f"{name}.base_param_settings"
        settings = given["base_param_settings"], own["base_param_settings"]
        taken["base_param_settings"] = intake.like(*settings, place)
    if "loss_scaler" in own and "loss_scaler" in given:
        scales = given["loss_scaler"], own["loss_scaler"]
        taken["loss_scaler"] = intake.scaler(*scales, f"{name}.loss_scaler")
    return taken


def _states(runner: Runner) -> Any:
    """Of the schedulers as they are before the run is taken up."""
    schedulers = runner.param_schedulers
    if isinstance(schedulers, dict):
        return {name: [s.state_dict() for s in several] for name, several in schedulers.items()}
    return [scheduler.state_dict() for scheduler in schedulers]


def _message_hub(
    intake: Intake, runner: Runner, given: dict[str, Any], own: set[str]
) -> dict[str, Any]:
    """The curves so far, and what the checkpoint hook knows of its files."""
    scalars = intake.table(given.get("log_scalars", {}), "message_hub.log_scalars")
    curves = {
        key: value
        for key, value in scalars.items()
        if is_name(key) and type(value) is HistoryBuffer
    }
    intake.leave("message_hub.log_scalars", (key for key in scalars if key not in curves))
    info = intake.table(given.get("runtime_info", {}), "message_hub.runtime_info")
    kept = {key: info[key] for key in own if key in info}
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            kept |= _files(intake, runner, hook, info)
    again = (key for key in info if key not in kept.keys() | _INFO_OF_A_RUN)
    unknown = (key for key in again if not str(key).startswith(_METRICS))
    intake.leave("message_hub.runtime_info", unknown)
    return {
        "log_scalars": curves,
        "runtime_info": kept,
        "resumed_keys": dict.fromkeys([*curves, *kept], True),
    }


def _files(
    intake: Intake, runner: Runner, hook: CheckpointHook, info: dict[Any, Any]
) -> dict[str, Any]:
    """What a checkpoint hook may delete: files of its own names in its own folder.

    And those only if the checkpoint lies there too. One that was brought from elsewhere, as a
    colleague's, knows nothing of the files here, and its best is not ours to delete.
    """
    folder = folder_of(runner.work_dir, hook.out_dir)
    places = {osp.realpath(place) for place in (runner.work_dir, folder)}
    here = osp.realpath(osp.dirname(osp.abspath(intake.path))) in places
    kept: dict[str, Any] = {}
    for key, value in info.items():
        name = f"message_hub.runtime_info.{key}"
        if key == "keep_ckpt_ids" and here:
            steps = [intake.count(step, name) for step in intake.listed(value, name)]
            file = osp.join(folder, hook.filename_tmpl)
            kept[key] = [step for step in steps if not osp.isdir(file.format(step))]
        elif str(key).startswith("best_score"):
            if type(value) not in (int, float) or not isfinite(value):
                raise intake.refuse(name, value, "a number")
            kept[key] = value
        elif str(key).startswith("best_ckpt") and here and _is_best(value, folder, hook):
            kept[key] = value
    return kept


def folder_of(work_dir: str, out_dir: str | Path | None) -> str:
    """Where MMEngine's hook saves: an ``out_dir`` gets the last part of the work dir."""
    return osp.join(out_dir, osp.basename(work_dir.rstrip(osp.sep))) if out_dir else work_dir


def names_of(template: str) -> str:
    """The regular expression of the names that a hook gives to its checkpoints."""
    return re.escape(template).replace(r"\{\}", r"\d+")


def _is_best(path: Any, folder: str, hook: CheckpointHook) -> bool:
    if not isinstance(path, str) or "\0" in path or osp.islink(path) or osp.isdir(path):
        return False
    there = osp.realpath(osp.dirname(path)) == osp.realpath(folder)
    name = rf"best_.+_{names_of(hook.filename_tmpl)}"
    return there and re.fullmatch(name, osp.basename(path)) is not None
