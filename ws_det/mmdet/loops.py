"""MMEngine's training loops, which can begin in the middle of an epoch."""

from __future__ import annotations

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn


@LOOPS.register_module(force=True)
class ResumableEpochLoop(EpochBasedTrainLoop):
    """Counts epochs. ``stream.resumable`` leaves out the batches that are past."""

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


RESUMABLE = {
    "EpochBasedTrainLoop": "ResumableEpochLoop",
    "IterBasedTrainLoop": "ResumableIterLoop",
}
