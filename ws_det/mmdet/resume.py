"""Where a stopped run is taken up, and what a checkpoint needs for that besides MMEngine's part."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import distributed as dist
from torch import nn

from ws_det.batch import Batch
from ws_det.intake import Intake
from ws_det.mmdet.intake import RUN, folder_of, names_of, place_of
from ws_det.mmdet.weights import load_safely, peek_safely
from ws_det.recovery import POINTER, Found, newest_whole, next_run
from ws_det.seeding import STEP, seed_at

_GRADIENTS = "gradients"
_UNFINISHED = (_GRADIENTS, "estimates")  # what belongs to a step that is to have more passes


def batch_of(cfg: Config) -> Batch:
    """Of a run with this config in the present process group."""
    accumulation = cfg.optim_wrapper.get("accumulative_counts", 1)
    return Batch(get_world_size(), cfg.train_dataloader.batch_size, accumulation)


class Point(NamedTuple):
    """Where a run is taken up; the start of it by default.

    Attributes:
        path: Of the checkpoint.
        epoch: Whole epochs.
        iter: Iterations.
        seed: Of the run, None if its checkpoint has none.
        batch: Of the run; None if the checkpoint is of MMDetection's own tools.
        epoch_iters: Iterations of an epoch.
        position: Batches that each process has had.
        run: How many runs began in the work dir before this one.
    """

    path: str | None = None
    epoch: int = 0
    iter: int = 0
    seed: int | None = None
    batch: Batch | None = None
    epoch_iters: int = 0
    position: int = 0
    run: int = 0

    @classmethod
    def of(cls, path: str, checkpoint: dict[str, Any]) -> Point:
        """Read from a checkpoint.

        Raises:
            InputError: If it has only weights, or says what cannot be.
        """
        meta = place_of(checkpoint, Intake(path))
        run = meta.get(RUN) or {}
        batch = Batch(*run["batch"]) if run else None
        place = meta["epoch"], meta["iter"], meta["seed"], batch
        position = run.get("position", meta["iter"])
        return cls(path, *place, run.get("epoch_iters", 0), position, run.get("run", 0))

    def on(self, batch: Batch, epoch_iters: int, by_epoch: bool) -> Point:
        """The same place for other GPUs, images or accumulation: after as many images.

        A loop that counts iterations goes on counting them; one that counts epochs is in the same
        epoch, and its iterations are counted as if all of them had been run this way.
        """
        if self.batch is None or self.batch.of_pass() == batch.of_pass():
            return self._replace(epoch_iters=epoch_iters)
        share = self.batch.of_pass() / batch.of_pass()
        if not by_epoch:
            return self._replace(position=round(self.position * share), epoch_iters=epoch_iters)
        past = self.iter - self.epoch * self.epoch_iters
        place = self.epoch * epoch_iters + min(round(past * share), epoch_iters)
        return self._replace(iter=place, position=place, epoch_iters=epoch_iters)


def find(cfg: Config) -> Found | None:
    """The newest whole checkpoint of the run in a config's work dir.

    Raises:
        InputError: If there are checkpoints, and none is whole.
    """

    def progress(checkpoint: dict[str, Any]) -> Any:
        return _of_meta(checkpoint).get("iter")

    pointer = Path(cfg.work_dir, POINTER)
    return newest_whole(pointer, _checkpoints(cfg), load_safely, progress, peek_safely, _run_of)


def _of_meta(checkpoint: dict[str, Any]) -> dict[str, Any]:
    meta = checkpoint.get("meta")
    return meta if isinstance(meta, dict) else {}


def _run_of(checkpoint: dict[str, Any]) -> Any:
    run = _of_meta(checkpoint).get(RUN)
    return run.get("run") if isinstance(run, dict) else None


def _checkpoints(cfg: Config) -> list[Path]:
    """The files in a config's work dir that are named as its checkpoints are."""
    settings = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    folder = Path(folder_of(cfg.work_dir, settings.get("out_dir")))
    names = {"epoch_{}.pth", "iter_{}.pth", settings.get("filename_tmpl") or "epoch_{}.pth"}
    patterns = [names_of(name) for name in names]
    files = list(folder.iterdir()) if folder.is_dir() else []
    return [file for file in files if any(re.fullmatch(p, file.name) for p in patterns)]


def locate(cfg: Config) -> Point:
    """Where a config's run is taken up, or begun.

    Raises:
        InputError: If it is to resume from what is no whole checkpoint of a run.
    """
    named = None if cfg.get("resume") == "auto" else cfg.get("load_from")
    if cfg.get("resume") and not named and (found := find(cfg)):
        return Point.of(str(found.path), found.content)
    resumed = Point.of(named, load_safely(named)) if cfg.get("resume") and named else Point()
    # What was run on after the named checkpoint is past.
    return resumed._replace(run=next_run(_checkpoints(cfg), peek_safely, _run_of))


def lead_to(cfg: Config, point: Point) -> None:
    """Let a config resume at a point, with the seed of its run, or begin where there is none."""
    cfg.resume = point.path is not None  # MMEngine would ask the pointer, and believe it
    if point.path:
        cfg.load_from = point.path
    if point.seed is not None:
        cfg.randomness = dict(cfg.get("randomness") or {}, seed=point.seed)


def scale_rates(runner: Runner, ratio: float) -> None:
    """Scale the learning rates that a checkpoint brought."""
    for group in runner.optim_wrapper.optimizer.param_groups:
        group["lr"] *= ratio
        group["initial_lr"] = group.get("initial_lr", group["lr"] / ratio) * ratio
    for scheduler in runner.param_schedulers or ():
        if scheduler.param_name == "lr":
            scheduler.base_values = [value * ratio for value in scheduler.base_values]


def mean_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients that wait for more passes by their mean over the processes.

    The step takes that mean anyway, and one copy is then enough in a checkpoint.
    """
    waiting = [p.grad for p in parameters if p.grad is not None]
    if waiting and dist.is_initialized():
        for gradient in waiting:
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()


def whole_model(runner: Runner) -> nn.Module:
    """The model without DDP."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def point_of(runner: Runner) -> Point:
    """Where a runner took up its run; MMDetection's own tools do not say."""
    return getattr(runner, "point", Point())


@HOOKS.register_module(force=True)
class ResumeHook(Hook):
    """Make a resumed run equal to one that never stopped, to the bit.

    Random numbers of a pass depend on the run's seed, the rank and the iteration alone. Gradients
    that wait for more passes are kept in the checkpoint.
    """

    priority = "VERY_HIGH"  # seed before any hook draws

    def __init__(self) -> None:
        self._gradients: dict[str, torch.Tensor] = {}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take the gradients, if their step is one of as many passes here."""
        if point_of(runner).batch != batch_of(runner.cfg):
            for part in _UNFINISHED:
                checkpoint.pop(part, None)
        self._gradients = checkpoint.pop(_GRADIENTS, {})

    def before_train(self, runner: Runner) -> None:
        """Give them to the model."""
        if self._gradients:
            passes = runner.iter % batch_of(runner.cfg).accumulation
            unit = "1 pass" if passes == 1 else f"{passes} passes"
            runner.logger.info(f"No gradient is lost: that of {unit} is in the checkpoint.")
        for name, parameter in whole_model(runner).named_parameters():
            if name in self._gradients:
                parameter.grad = self._gradients[name].to(parameter.device)
        self._gradients = {}

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Seed the proposals, RoIs and dropout of this pass."""
        seed_at(runner.seed, STEP, runner.rank, runner.iter)

    def before_ranks_save(self, runner: Runner) -> None:
        """Make the waiting gradients equal on all ranks."""
        mean_gradients(runner.model.parameters())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add what a resume needs."""
        meta, point = checkpoint["meta"], point_of(runner)
        meta[RUN] = {
            "batch": tuple(batch_of(runner.cfg)),
            "epoch_iters": len(runner.train_dataloader),
            "position": point.position + meta["iter"] - point.iter,
            "run": point.run,
        }
        if "optimizer" in checkpoint:
            waiting = whole_model(runner).named_parameters()
            gradients = {name: p.grad.cpu() for name, p in waiting if p.grad is not None}
            if gradients:
                checkpoint[_GRADIENTS] = gradients
