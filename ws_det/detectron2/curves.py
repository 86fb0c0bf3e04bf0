"""Draw how losses and APs went, as ``curves.png`` in the output folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from ws_det.curves import draw_curves
from ws_det.family import is_dense
from ws_det.intake import Intake, is_name
from ws_det.report import ap_points, write_json


class CurvesHook(HookBase):
    """Draw ``curves.png`` after each evaluation and at the end of training, on rank 0.

    Registered before the checkpointer: the losses are in the checkpoint, so that a resumed run
    draws the whole curve. The APs are in ``curves.json``, for Detectron2 evaluates after it saves.

    Args:
        folder: Where both files go.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._losses: dict[str, list[float]] = {}
        self._aps: list[dict[str, Any]] = []

    def before_train(self) -> None:
        """Take up the APs of the run that is resumed; those of another run are past."""
        path = self._folder / "curves.json"
        kept = json.loads(path.read_text()) if path.is_file() else []
        self._aps = [point for point in kept if point["iter"] <= self.trainer.start_iter]

    def after_step(self) -> None:
        """Keep the losses."""
        if comm.is_main_process():
            latest = self.trainer.storage.latest()
            names = {"total_loss": "loss"} | {n: n for n in latest if n.startswith("loss_")}
            for name, word in names.items():
                if latest.get(name, (0, -1))[1] == self.trainer.iter:  # else it was skipped
                    self._losses.setdefault(word, []).append(latest[name][0])

    def after_train(self) -> None:
        """Draw."""
        if comm.is_main_process():
            self._draw(self.trainer.iter)

    def evaluated(self, report: dict[str, Any]) -> None:
        """Keep the APs of an evaluation after this step or, at the end, after training; draw.

        Args:
            report: See ``ws_det.report``; empty on every rank but 0.
        """
        found = ap_points(report)
        if found:
            done = min(self.trainer.iter + 1, self.trainer.max_iter)
            self._aps.append({"iter": done, **found})
            write_json(self._folder / "curves.json", self._aps)
            self._draw(done)

    def state_dict(self) -> dict[str, Any]:
        """The losses so far."""
        return {"losses": {name: torch.tensor(v) for name, v in self._losses.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the losses of the run that is resumed.

        Raises:
            InputError: If they are none.
        """
        intake = Intake("the resumed checkpoint")
        losses = intake.table(state_dict, "CurvesHook").get("losses")
        losses = intake.table(losses, "CurvesHook.losses")
        for name, values in losses.items():
            if not is_name(name) or not is_dense(values) or values.ndim != 1:
                raise intake.refuse("CurvesHook.losses", values, "a list of numbers by name")
        self._losses = {name: values.tolist() for name, values in losses.items()}

    def _draw(self, done: int) -> None:
        if self._losses:
            draw_curves(self._losses, self._aps, done, self._folder / "curves.png")
