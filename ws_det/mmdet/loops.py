"""MMEngine's training loops, which can begin in the middle of an epoch."""

from __future__ import annotations

import json
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn

from ws_det.mmdet.launch import from_first


@LOOPS.register_module(force=True)
class ResumableEpochLoop(EpochBasedTrainLoop):
    """Counts epochs. ``stream.resumable`` leaves out the batches that are past."""

    def run(self) -> nn.Module:
        """Train to ``max_epochs``, and first make up for a validation that a kill prevented."""
        if self._epoch and self._iter == self._epoch * len(self.dataloader):
            self.runner.register_hook(_Validate())
        return super().run()

    def run_epoch(self) -> None:
        """Run what is left of an epoch; after its last batch that is only what follows it."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        past = self._iter - self._epoch * len(self.dataloader)
        if past < len(self.dataloader):
            for index, batch in enumerate(self.dataloader, past):
                self.run_iter(index, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1


@LOOPS.register_module(force=True)
class ResumableIterLoop(IterBasedTrainLoop):
    """Counts iterations. MMEngine's own would leave out the past batches once more."""

    def run(self) -> nn.Module:
        """Train to ``max_iters``, and validate where it is due."""
        runner = self.runner
        runner.call_hook("before_train")
        runner.call_hook("before_train_epoch")
        while self._iter < self._max_iters and not self.stop_training:
            runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
            if runner.val_loop is not None and self._iter >= self.val_begin and due:
                runner.val_loop.run()
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")
        return runner.model


class _Validate(Hook):
    """Validate before training goes on, unless the curves have the numbers."""

    priority = "LOWEST"  # the other hooks have begun

    def before_train(self, runner: Runner) -> None:
        """A checkpoint is saved before the validation of its epoch."""
        loop, epoch = runner.train_loop, runner.epoch
        due = epoch >= loop.val_begin and (
            epoch % loop.val_interval == 0 or epoch == loop.max_epochs
        )
        if runner.val_loop is not None and due and not from_first(_drawn(runner)):
            runner.val_loop.run()


def _drawn(runner: Runner) -> bool:
    path = Path(runner.work_dir, "curves.json")
    points = json.loads(path.read_text()) if path.is_file() else []
    return any(point["iter"] == runner.iter for point in points)


RESUMABLE = {
    "EpochBasedTrainLoop": "ResumableEpochLoop",
    "IterBasedTrainLoop": "ResumableIterLoop",
}
