"""Train and test a detector; the tools parse and call these."""

from __future__ import annotations

import os.path as osp
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.evaluation import CocoMetric, MultiDatasetsEvaluator
from mmdet.registry import VISUALIZERS
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.optim import OptimWrapper
from mmengine.visualization import Visualizer

from ws_det.checks import check_file, check_writable
from ws_det.errors import InputError, one_sentence
from ws_det.fit import checked
from ws_det.lock import alone_in
from ws_det.mmdet import copies, launch, preflight
from ws_det.mmdet.annotations import Reading
from ws_det.mmdet.config import complete, load_config
from ws_det.mmdet.copies import Change
from ws_det.mmdet.data import datasets_of
from ws_det.mmdet.evaluators import EveryNumber
from ws_det.mmdet.metrics import DumpPredictions
from ws_det.mmdet.report import result_of
from ws_det.mmdet.resumable import ResumableRunner
from ws_det.mmdet.resume import Point, batch_of, lead_to, locate
from ws_det.mmdet.saving import disk_full
from ws_det.mmdet.tta import prepare, wrap
from ws_det.mmdet.weights import use_safe_loader
from ws_det.scaling import learning_rate


class AccumulatingRunner(ResumableRunner):
    """A runner whose ``--auto-scale-lr`` also counts gradient accumulation.

    It says at every start how the learning rate comes about, and what is not read as it is. No
    evaluator's numbers are lost.
    """

    def read(self, readings: Sequence[Reading], changes: Sequence[Change]) -> None:
        """Let the data loaders and evaluators, not built yet, read what was mended, and say so."""
        copies.apply(changes, lambda place: getattr(self, f"_{place}"))
        for line in copies.describe(readings, changes):
            self.logger.warning(line)

    def build_evaluator(self, evaluator: Any) -> Evaluator:
        """Build it; one of MMEngine's own may have evaluators that use the same names."""
        built = super().build_evaluator(evaluator)
        for metric in built.metrics:
            if isinstance(metric, CocoMetric):  # pycocotools compares them as an array
                metric.iou_thrs = np.atleast_1d(metric.iou_thrs)
        return EveryNumber(built.metrics) if type(built) is Evaluator else built

    def build_visualizer(self, visualizer: Any = None) -> Visualizer:
        """A visualizer of this run: MMEngine would take up that of a run before in this process."""
        kind = visualizer["type"] if isinstance(visualizer, dict) else None
        kind = VISUALIZERS.get(kind) if isinstance(kind, str) else kind
        for cls in (kind, Visualizer) if kind else ():  # hooks ask the base for the newest of it
            cls._instance_dict.pop(visualizer.get("name"), None)
        return super().build_visualizer(visualizer)

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict | None = None) -> None:
        """Scale every learning rate by the images of a step over ``base_batch_size``, if asked."""
        auto = auto_scale_lr or {}
        scale = bool(auto.get("enable"))
        own = (self.cfg.optim_wrapper.get("optimizer") or {}).get("lr")
        if own is None and not scale:
            return  # an optimizer with a rate of its own
        rate, line = learning_rate(own, batch_of(self.cfg), auto.get("base_batch_size"), scale)
        self.logger.info(line)
        if scale:
            for group in optim_wrapper.optimizer.param_groups:
                group["lr"] *= rate / own


def train(
    cfg_path: str,
    work_dir: str | None = None,
    amp: bool = False,
    resume: str | None = None,
    auto_scale_lr: bool = False,
    cfg_options: Mapping[str, Any] | None = None,
    launcher: str = "none",
    data_root: str | None = None,
    compiled: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Train a detector.

    Args:
        cfg_path: Path of a config, or the name of a supplied one.
        work_dir: Where to write, ``work_dirs/<config>`` if nobody says.
        amp: Train with automatic mixed precision, on a GPU.
        resume: A checkpoint to resume from, or ``"auto"`` for the latest in the work dir.
        auto_scale_lr: Scale the learning rate to the total batch.
        cfg_options: Values by dotted key.
        launcher: One of ``launch.LAUNCHERS``.
        data_root: Folder of a COCO-format set.
        compiled: Compile backbone and neck, see ``CompileHook``.
        force: Only warn of weights trained with other norms, or with WS where the config has none.

    Returns:
        The report of the last validation, as ``CocoReportHook.report``, its ``work_dir``, and what
        to say of its ``files``; empty on every rank but the first.

    Raises:
        InputError: For bad input, before anything is written.
    """
    with launch.process_group(launcher) as launcher, ExitStack() as held:
        with launch.refuse_together():
            cfg = load_config(cfg_path, cfg_options, data_root, work_dir)
            _apply_flags(cfg, amp, resume, auto_scale_lr)
            complete(cfg, launcher)
            if compiled:
                cfg.custom_hooks.append(dict(type="CompileHook"))
            if launch.is_first():
                held.enter_context(alone_in(cfg.work_dir, "--work-dir"))
            point, readings = Point(), []
            if launch.is_local_main():
                point = locate(cfg)
                lead_to(cfg, point)
                readings = preflight.check_training(cfg, force)
        changes = copies.write_copies(readings, cfg.work_dir)
        point = launch.from_first(point)
        lead_to(cfg, point)
        use_safe_loader()
        with disk_full(cfg.work_dir):
            runner = AccumulatingRunner.from_cfg(cfg)
            runner.point = point
            runner.read(readings, changes)
            with one_sentence(), checked():
                runner.train()
        return result_of(runner, runner.val_loop)


def test(
    cfg_path: str,
    checkpoint: str,
    work_dir: str | None = None,
    out: str | None = None,
    show_dir: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    launcher: str = "none",
    data_root: str | None = None,
    force: bool = False,
    tta: bool = False,
) -> dict[str, Any]:
    """Evaluate a checkpoint on the config's test set.

    Args:
        cfg_path: Path of a config, or the name of a supplied one.
        checkpoint: Path or URL of the weights.
        work_dir: Where to write, ``work_dirs/<config>`` if nobody says.
        out: A ``.pkl`` for the predictions, as mmdet's tools write it.
        show_dir: A folder for pictures of predictions beside truth: one an image, with the
            folders of the images, and the first in ``predictions.png``; of several sets in folders
            named after them. MMDetection draws those of the first process only.
        cfg_options: Values by dotted key.
        launcher: One of ``launch.LAUNCHERS``.
        data_root: Folder of a COCO-format set.
        force: As in ``train``.
        tta: Test with augmentation, see ``tta.prepare``.

    Returns:
        The report, as ``CocoReportHook.report``, its ``work_dir``, and what to say of its
        ``files``; empty on every rank but the first.

    Raises:
        InputError: For bad input, before anything is written.
    """
    with launch.process_group(launcher) as launcher:
        with launch.refuse_together():
            if out and Path(out).suffix not in (".pkl", ".pickle"):
                raise InputError(f"--out {out} must end in .pkl: predictions are pickled")
            if out and launch.is_local_main():
                check_file(out, "--out")
            if show_dir and launch.is_local_main():
                check_writable(show_dir, "--show-dir")
            cfg = load_config(cfg_path, cfg_options, data_root, work_dir, parts=("test",))
            cfg.load_from, cfg.resume = checkpoint, False
            left_out = prepare(cfg) if tta else []
            complete(cfg, launcher)
            if show_dir:
                _show(cfg, show_dir)
            readings = preflight.check_test(cfg, force) if launch.is_local_main() else []
        changes = copies.write_copies(readings, cfg.work_dir)
        use_safe_loader()
        if tta:
            wrap(cfg)
        runner = AccumulatingRunner.from_cfg(cfg)
        runner.read(readings, changes)
        for line in left_out:
            runner.logger.warning(line)
        if out:
            device = "cpu" if launcher == "none" else "gpu"
            dump = DumpPredictions(out, collect_device=device)
            dump.dataset_meta = runner.test_dataloader.dataset.metainfo
            runner.test_evaluator.metrics.append(dump)
        with one_sentence(), checked():
            runner.test()
            if out and isinstance(runner.test_evaluator, MultiDatasetsEvaluator):
                dump.evaluate(len(runner.test_dataloader.dataset))  # it asks one for each set
        return result_of(runner, runner.test_loop)


def _apply_flags(cfg: Config, amp: bool, resume: str | None, auto_scale_lr: bool) -> None:
    if amp:
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
    if auto_scale_lr:
        if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
            raise InputError(
                "--auto-scale-lr needs auto_scale_lr.base_batch_size, the total batch that the "
                "learning rate is for: add it with --cfg-options auto_scale_lr.base_batch_size=16"
            )
        cfg.auto_scale_lr.enable = True
    if resume == "auto":
        cfg.resume = resume  # and weights to begin with where there is nothing to resume
    elif resume:
        cfg.resume, cfg.load_from = True, resume


def _show(cfg: Config, folder: str) -> None:
    for dataset in datasets_of(cfg, "test"):
        prefix = (dataset.get("data_prefix") or {}).get("img") or ""
        images = osp.join(dataset.get("data_root") or "", prefix)
        if osp.realpath(images) == osp.realpath(folder):
            raise InputError(
                f"--show-dir {folder} is the folder of the images, which the pictures would "
                f"replace: give another folder"
            )
    hook = cfg.default_hooks.setdefault("visualization", dict(type="DetVisualizationHook"))
    if hook.get("type") == "DetVisualizationHook":
        hook.type = "NamedVisualizationHook"
    # Absolute: a relative one would be taken below the work dir and a time stamp.
    hook.update(draw=True, test_out_dir=str(Path(folder).absolute()))
    cfg.custom_hooks.append(dict(type="PicturesHook", path=f"{folder}/predictions.png"))
