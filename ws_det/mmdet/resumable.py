"""MMEngine's Runner, made to stop anywhere and to resume as if it had not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner

from ws_det.batch import change
from ws_det.errors import InputError, first_line
from ws_det.files import replacing
from ws_det.mmdet.intake import admit
from ws_det.mmdet.loops import RESUMABLE
from ws_det.mmdet.resume import Point, batch_of, scale_rates
from ws_det.mmdet.stream import resumable


class ResumableRunner(Runner):
    """MMEngine's Runner, which resumes to the bit and writes checkpoints whole or not at all.

    ``ResumeHook`` is its other half.
    """

    point = Point()  # where the run is taken up
    _resumed: str | None = None  # the file, while it is read

    def build_train_loop(self, loop: dict) -> BaseLoop:
        """Build the loop, and let it begin where the run stopped."""
        counted = "Epoch" if loop.get("by_epoch") else "Iter"
        kind = loop.get("type") or f"{counted}BasedTrainLoop"
        if kind not in RESUMABLE:
            if self.point.path:
                self.logger.warning(f"{kind} begins an epoch anew; MMEngine's own loops would not.")
            return super().build_train_loop(loop)
        loader = self.build_dataloader(
            self._train_dataloader,
            seed=self.seed,
            diff_rank_seed=self._randomness_cfg.get("diff_rank_seed", False),
        )
        by_epoch = kind == "EpochBasedTrainLoop"
        self.point = self.point.on(batch_of(self.cfg), len(loader), by_epoch)
        loader = resumable(loader, self.seed, self.point.position, endless=not by_epoch)
        self._train_dataloader = loader
        settings = {key: value for key, value in loop.items() if key != "by_epoch"}
        return super().build_train_loop({**settings, "type": RESUMABLE[kind]})

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Take up a run, and say what another number of GPUs changes.

        Raises:
            InputError: If the checkpoint is not of this run.
        """
        self._resumed = filename
        try:
            super().resume(filename, *args, **kwargs)
        except InputError:
            raise
        except Exception as error:  # what does not fit makes MMEngine and torch raise anything
            raise InputError(
                f"{filename} is no checkpoint of this run ({first_line(error)}): resume from "
                f"another, or start from its weights alone"
            ) from error
        finally:
            self._resumed = None
        self.train_loop._iter = self.point.iter
        point, new = self.point, batch_of(self.cfg)
        if point.batch in (None, new):
            return
        scaled = bool((self.auto_scale_lr or {}).get("enable"))
        if scaled:
            scale_rates(self, new.total() / point.batch.total())
        past = point.iter - point.epoch * point.epoch_iters
        place = f"epoch {point.epoch + 1} at iteration {past} of {point.epoch_iters}"
        if isinstance(self.train_loop, IterBasedTrainLoop):
            place = f"iteration {point.iter} after as many images as before"
        self.logger.warning(change(point.batch, new, place, scaled))

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call all hooks; before they see a checkpoint it is sorted, see ``intake``."""
        if fn_name == "after_load_checkpoint":
            admit(self, kwargs["checkpoint"], self._resumed)
        super().call_hook(fn_name, **kwargs)

    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, save_optimizer: bool = True, **kwargs: Any
    ) -> None:
        """Save beside and rename, on the first rank; every rank calls this."""
        if save_optimizer:
            self.call_hook("before_ranks_save")  # MMEngine's before_save_checkpoint is of one rank
        if not isinstance(get_file_backend(out_dir), LocalBackend):
            super().save_checkpoint(
                out_dir, filename, *args, save_optimizer=save_optimizer, **kwargs
            )
            return
        if self.rank == 0:  # MMEngine's method is of one rank too
            with replacing(Path(out_dir, filename)) as file:
                beside = os.path.split(file.name)
                super().save_checkpoint(*beside, *args, save_optimizer=save_optimizer, **kwargs)
