"""Checkpoints that are there whole or not at all, and never fewer than before."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ws_det.errors import InputError
from ws_det.files import remove_parts
from ws_det.masks import is_finite

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@HOOKS.register_module(force=True)
class WholeCheckpointHook(CheckpointHook):
    """MMEngine's, which deletes an old checkpoint before it writes the new one; here it is after.

    Parts that a killed run left are removed.
    """

    def before_train(self, runner: Runner) -> None:
        """Make deletions wait, and remove what is left."""
        super().before_train(runner)
        if runner.rank == 0:
            remove_parts(runner.work_dir)
            remove_parts(self.out_dir)
        if isinstance(self.file_backend, LocalBackend):
            self.file_backend = _Late()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        super()._save_checkpoint_with_step(runner, step, meta)
        self._delete()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        """Save it, unless the evaluators do not give the number that it is to be best by."""
        numbers = {name: value for name, value in metrics.items() if is_finite(value)}
        missing = {*(self.key_indicators if self.save_best else ())} - {"auto", *numbers}
        if missing or (self.save_best and not numbers):
            runner.logger.warning(
                f"no checkpoint is kept as the best, for the evaluation gives no number "
                f"{', '.join(missing) or 'at all'}; it gives {', '.join([*numbers][:8]) or 'none'}"
            )
            return
        super()._save_best_checkpoint(runner, numbers)
        self._delete()

    def _delete(self) -> None:
        if isinstance(self.file_backend, _Late):
            self.file_backend.delete()


class _Late(LocalBackend):
    """Deletes files when told to."""

    def __init__(self) -> None:
        self._waiting: list[str | Path] = []

    def remove(self, filepath: str | Path) -> None:
        self._waiting.append(filepath)

    def delete(self) -> None:
        while self._waiting:
            super().remove(self._waiting.pop())


@contextmanager
def disk_full(work_dir: str) -> Iterator[None]:
    """End a run whose disk is full with one sentence.

    Raises:
        InputError: For an OSError that says so, also where it is the cause of an InputError.
    """
    try:
        yield
    except (OSError, InputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _FULL:
            raise
        raise InputError(
            f"{work_dir} cannot be written to ({cause.strerror}): free space, then go on from the "
            f"last checkpoint with --resume"
        ) from error
