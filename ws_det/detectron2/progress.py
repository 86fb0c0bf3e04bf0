"""How many images a run has had, which a checkpoint keeps for a resume with other GPUs."""

from __future__ import annotations

from typing import Any

from detectron2.engine import TrainerBase

from ws_det.batch import Batch, change


class Progress:
    """A part of the checkpoint beside model and trainer.

    Args:
        trainer: Its ``iter`` counts the steps.
        batch: Of the present run.

    Attributes:
        run: How many runs began in the output folder before this one.
    """

    def __init__(self, trainer: TrainerBase, batch: Batch) -> None:
        self.trainer, self.batch = trainer, batch
        self._start = self._images = 0  # an iteration, and the images before it
        self._old: Batch | None = None
        self.run = 0

    def state_dict(self) -> dict[str, Any]:
        """Of after the present step."""
        steps = self.trainer.iter + 1 - self._start
        images = self._images + steps * self.batch.total()
        return {"batch": tuple(self.batch), "images": images, "run": self.run}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Of a checkpoint; those of Detectron2's own trainers have none."""
        self._old, self._images = Batch(*state["batch"]), state["images"]
        self.run = state.get("run", 0)

    def begin(self, start: int) -> tuple[int, str | None]:
        """Take up a run.

        Args:
            start: The first iteration.

        Returns:
            The batches of each process to leave out, and what to tell the user.
        """
        self._start = start
        if self._old is None:
            self._images = start * self.batch.total()
        skip = self._images // self.batch.of_pass()
        if self._old in (None, self.batch):
            return skip, None
        place = f"after {self._images} images of the same order, and iteration {start} as before"
        return skip, change(self._old, self.batch, place)
