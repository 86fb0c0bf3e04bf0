"""Train and evaluate a detector; the tool parses and calls `run`."""

from __future__ import annotations

import logging
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.engine import default_setup, default_writers, hooks, launch
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm
from torch import nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from ws_det.batch import Batch
from ws_det.checks import check_writable
from ws_det.detectron2 import preflight
from ws_det.detectron2.config import load_recipe
from ws_det.detectron2.copies import registered_anew, write_copies
from ws_det.detectron2.curves import CurvesHook
from ws_det.detectron2.data import image_names
from ws_det.detectron2.hooks import PreciseStatistics, SyncEstBNHook
from ws_det.detectron2.progress import Progress
from ws_det.detectron2.recipe import Recipe
from ws_det.detectron2.scaling import follow_batch
from ws_det.detectron2.testing import evaluate, evaluate_augmented, verify
from ws_det.detectron2.trainer import AccumulatingTrainer
from ws_det.detectron2.weights import SafeCheckpointer, next_run_in
from ws_det.errors import InputError, one_sentence
from ws_det.guard import NanGuard
from ws_det.leaving import leave_group
from ws_det.lock import alone_in
from ws_det.paths import find_config
from ws_det.report import closing_line

_log = logging.getLogger("detectron2")


class Job(NamedTuple):
    """What the user asked for; every process gets a copy.

    Attributes:
        config: Path of a config, or the name of a supplied one.
        options: ``KEY=VALUE``.
        data_root: Folder of a COCO-format set.
        resume: Take up the run in the output folder.
        eval_only: Evaluate the weights that the config names.
        show_dir: Folder for ``predictions.png``, the first images of the test set as truth and as
            prediction; of several sets in folders named after them.
        compiled: Compile the backbone with its FPN. The RoI heads depend on what is on an image
            and would break the graph again and again.
        force: Only warn of weights trained with other norms, or with WS where the config has none.
        tta: Also evaluate with test-time augmentation, as ``TEST.AUG.ENABLED`` of a yaml says.
        auto_scale_lr: Scale the learning rate to the images of a step, see ``follow_batch``.
    """

    config: str
    options: tuple[str, ...] = ()
    data_root: str | None = None
    resume: bool = False
    eval_only: bool = False
    show_dir: str | None = None
    compiled: bool = False
    force: bool = False
    auto_scale_lr: bool = False
    tta: bool = False


def run(
    job: Job,
    processes: int = 1,
    machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
) -> None:
    """Check a job, then train or evaluate in as many processes as asked for.

    Each process takes one GPU, or on a machine without any, a share of the CPU. The first one
    prints the closing line.

    Args:
        job: What to do.
        processes: On this machine.
        machines: How many run this command.
        machine_rank: Which of them this is.
        dist_url: Where they meet, as in ``detectron2.engine.launch``.

    Raises:
        InputError: For bad input, before anything is written.
    """
    if job.show_dir:
        check_writable(job.show_dir, "--show-dir")
    loaded = recipe, _ = _load(job, max(processes * machines, 1))
    test = job.eval_only
    with _alone(recipe, job, machine_rank == 0):  # the first process takes the lock over
        found = preflight.check(
            recipe, processes, machines, resume=job.resume, test=test, force=job.force
        )
        sets = write_copies(found, recipe.output_dir)
    try:
        # One process stays this one, and a config may register sets, which can be done once.
        alone = processes * machines == 1
        args = (job, sets, found.notes, loaded if alone else None)
        launch(_work, processes, machines, machine_rank, dist_url, args=args)
    except ProcessRaisedException as error:
        raise _one_sentence(error) from error
    except ProcessExitedException as error:
        reason = error.signal_name or f"exit code {error.exit_code}"
        raise InputError(
            f"process {error.error_index} was ended ({reason}), often for want of memory, and the "
            f"others with it: go on from the last checkpoint with --resume"
        ) from error


def _work(
    job: Job,
    sets: Mapping[str, Mapping[str, Any]],
    notes: Sequence[str],
    loaded: tuple[Recipe, str] | None,
) -> None:
    """What each process does.

    After an error it keeps its group, for the others fail as soon as that is gone, and the error
    that the user is told is that of the process which ends first.

    Args:
        job: What to do.
        sets: For ``registered_anew``.
        notes: On the sets, to be logged.
        loaded: As of ``_load``, if this process has done it.
    """
    recipe, line = loaded or _load(job, comm.get_world_size())
    with one_sentence(), registered_anew(sets):
        _run(job, recipe, line, notes)
    leave_groups()


def leave_groups() -> None:
    """Leave the groups of a process that Detectron2's ``launch`` started, see ``leave_group``."""
    comm._LOCAL_PROCESS_GROUP = None  # Detectron2 holds the groups in two places
    comm._get_global_gloo_group.cache_clear()
    leave_group()


def _run(job: Job, recipe: Recipe, line: str, notes: Sequence[str]) -> None:
    with _alone(recipe, job, comm.is_main_process()):
        comm.synchronize()  # a refused run leaves no logs of its other processes
        default_setup(recipe.cfg, Namespace(config_file=find_config(job.config), **_flags(job)))
        if not job.eval_only:
            _log.info(line)
        for note in notes:
            _log.warning(note)
        model = recipe.build_model().to(recipe.device)
        report = _test(recipe, model, job) if job.eval_only else _train(recipe, model, job)
    if comm.is_main_process():
        places = [f"numbers in {recipe.output_dir}/coco_metrics.json"] if report else []
        if not report:  # of sets without annotations
            found = sorted(Path(recipe.output_dir).glob("inference/**/coco_instances_results.json"))
            places += [f"results in {path}" for path in found]
        places += [f"pictures in {job.show_dir}"] if job.show_dir else []
        places += [] if job.eval_only else [f"checkpoints and curves.png in {recipe.output_dir}"]
        augmented = f"; augmented: {closing_line(report['TTA'])}" if "TTA" in report else ""
        said = [f"{closing_line(report)}{augmented}", *([", ".join(places)] if places else [])]
        print("; ".join(said))


def _alone(recipe: Recipe, job: Job, first: bool) -> AbstractContextManager:
    """The lock of the output folder, for the first process of a training."""
    locks = first and not job.eval_only
    return alone_in(recipe.output_dir, preflight.OUTPUT_DIR) if locks else nullcontext()


def _load(job: Job, processes: int) -> tuple[Recipe, str]:
    """The recipe, and how its learning rate comes about."""
    recipe = load_recipe(job.config, job.options, job.data_root)
    if job.tta:
        recipe.enable_tta()
    return follow_batch(recipe, processes, job.auto_scale_lr)


def _test(recipe: Recipe, model: nn.Module, job: Job) -> dict[str, Any]:
    SafeCheckpointer(_in_ddp(recipe, model)).load(recipe.weights)
    results, report = evaluate(recipe, model, job.show_dir)
    if recipe.tta["enabled"]:
        augmented, numbers = evaluate_augmented(recipe, model)
        results, report = results | augmented, report | numbers
    verify(recipe, results)
    return report


def _train(recipe: Recipe, model: nn.Module, job: Job) -> dict[str, Any]:
    if job.compiled:
        model.backbone.compile()  # in place, so that checkpoints keep their keys
    optimizer = recipe.build_optimizer(model)
    guard = NanGuard(model, image_names, recipe.output_dir, recipe.on_nan)
    trainer = AccumulatingTrainer(
        _in_ddp(recipe, model),
        optimizer,
        seed=recipe.seed if recipe.seed >= 0 else comm.shared_random_seed(),
        accumulation=recipe.accumulation,
        max_norm=recipe.max_norm,
        amp=recipe.amp,
        guard=guard,
    )
    curves = CurvesHook(recipe.output_dir)
    report: dict[str, Any] = {}
    last: dict[str, Any] = {}

    def evaluate_and_draw() -> dict[str, Any]:
        results, numbers = evaluate(recipe, trainer.model)
        last.update(results)
        report.update(numbers)
        curves.evaluated(numbers)
        return results

    def evaluate_last() -> dict[str, Any]:
        results, numbers = evaluate_augmented(recipe, trainer.model)
        report.update(numbers)
        return results

    processes = comm.get_world_size()
    batch = Batch(processes, recipe.batch_size // processes, recipe.accumulation)
    progress = Progress(trainer, batch)
    progress.run = next_run_in(recipe.output_dir)
    checkpointer = SafeCheckpointer(
        trainer.model, recipe.output_dir, trainer=trainer, progress=progress
    )
    main = comm.is_main_process()
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=recipe.build_schedule(optimizer)),
            SyncEstBNHook(),
            _precise_statistics(recipe, trainer) if recipe.precise_bn else None,
            curves,
            hooks.PeriodicCheckpointer(checkpointer, **recipe.checkpoint) if main else None,
            hooks.EvalHook(recipe.eval_period, evaluate_and_draw),
            hooks.EvalHook(0, evaluate_last) if recipe.tta["enabled"] else None,
            hooks.PeriodicWriter(
                default_writers(recipe.output_dir, recipe.max_iter), recipe.log_period
            )
            if main
            else None,
        ]
    )
    checkpointer.resume_or_load(recipe.weights, resume=job.resume)
    start = trainer.iter + 1 if job.resume and checkpointer.has_checkpoint() else 0
    skip, changed = progress.begin(start)
    if changed:
        _log.warning(changed)
    trainer.data_loader = recipe.build_train_loader(trainer.seed, skip)
    trainer.train(start, recipe.max_iter)
    if job.show_dir:
        evaluate(recipe, trainer.model, job.show_dir)
    verify(recipe, last)
    return report


def _precise_statistics(recipe: Recipe, trainer: AccumulatingTrainer) -> PreciseStatistics:
    def loader() -> Any:
        return recipe.build_precise_loader(trainer.seed)

    return PreciseStatistics(recipe.eval_period, trainer.model, loader, recipe.precise_bn)


def _in_ddp(recipe: Recipe, model: nn.Module) -> nn.Module:
    # Detectron2's default, the local rank, is refused without GPUs.
    without_gpu = {"device_ids": None} if recipe.device == "cpu" else {}
    return create_ddp_model(model, **(recipe.ddp | without_gpu))


def _flags(job: Job) -> dict[str, Any]:
    return {key: value for key, value in job._asdict().items() if key != "config"}


def _one_sentence(error: ProcessRaisedException) -> Exception:
    """The InputError of a process, taken out of the traceback that torch wraps it in."""
    said = re.findall(r"^ws_det\.errors\.InputError: (.+)$", str(error), re.MULTILINE)
    return InputError(said[-1]) if said else error
