"""Hostile and odd resume files through a real run of Detectron2's trainer.

Oracle: the interpreter's audit events and canary files. A case runs nothing of the file, touches
nothing but its output folder and in it no file that the run has not written, and ends in a run that
trains to its end, or in one sentence. ``make sweep`` runs all cases.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import hooks
from detectron2.solver import LRMultiplier
from fvcore.common.param_scheduler import CosineParamScheduler
from torch import nn

from tests.hostile import canaries, damage, paths
from tests.test_fuzz import ended, summary
from tests.watched import snapshot, watched
from ws_det import BatchChannelNorm2d, WSConv2d
from ws_det.batch import Batch
from ws_det.checkpoint import load_checkpoint
from ws_det.detectron2.curves import CurvesHook as Curves
from ws_det.detectron2.hooks import SyncEstBNHook
from ws_det.detectron2.progress import Progress
from ws_det.detectron2.stream import build_train_loader
from ws_det.detectron2.trainer import AccumulatingTrainer
from ws_det.detectron2.weights import SafeCheckpointer, loaded_model, resume_point
from ws_det.fit import check_whole

DEFAULT, ALL = 100, 2000
LAST = 6  # iterations


class Tiny(nn.Module):
    """A convolution with estimates behind it, and Detectron2's interface."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = WSConv2d(2, 4, 3, bias=False)
        self.norm = BatchChannelNorm2d(4, num_groups=2, estimate=True)
        self.out = nn.Linear(4, 1)

    def forward(self, batch: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        feature = self.norm(self.conv(torch.stack(batch))).mean((2, 3))
        return {"loss_out": self.out(feature).square().mean()}


class CurvesHook(Curves):
    """Draws one run in twenty: a picture takes longer than the rest of a case."""

    draws = 0

    def after_train(self) -> None:
        CurvesHook.draws += 1
        if CurvesHook.draws % 20 == 1:  # the first, which imports what draws
            super().after_train()


def image(record: dict[str, int]) -> torch.Tensor:
    return torch.full((2, 4, 4), float(record["number"]))


def start(optimizer: str, folder: Path, resume: bool = True) -> AccumulatingTrainer:
    """As ``ws_det.detectron2.preflight`` and ``train`` do it."""
    torch.manual_seed(0)
    model = Tiny()
    if resume and (last := resume_point(str(folder))):
        check_whole(model, loaded_model(last)["model"], last, "give another")
    settings = dict(lr=0.1, momentum=0.9) if optimizer == "SGD" else dict(lr=0.1)
    made = getattr(torch.optim, optimizer)(model.parameters(), **settings)
    trainer = AccumulatingTrainer(model, made, seed=3, accumulation=2)
    progress = Progress(trainer, Batch(1, 1, 2))
    checkpointer = SafeCheckpointer(model, str(folder), trainer=trainer, progress=progress)
    schedule = CosineParamScheduler(1, 0.1)
    if optimizer == "AdamW":  # as of a yaml config; the hook makes the other one's, later
        schedule = LRMultiplier(made, schedule, LAST)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=schedule),
            SyncEstBNHook(),
            CurvesHook(str(folder)),
            hooks.PeriodicCheckpointer(checkpointer, period=1, max_to_keep=2),
        ]
    )
    checkpointer.resume_or_load("", resume=resume)
    first = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    skip, _ = progress.begin(first)
    trainer.data_loader = build_train_loader(
        [{"width": 4, "height": 4, "number": i} for i in range(4)],
        mapper=image,
        total_batch_size=1,
        seed=trainer.seed,
        skip=skip,
    )
    trainer.train(first, LAST)
    return trainer


@pytest.fixture(scope="module", params=["SGD", "AdamW"])
def optimizer(request: pytest.FixtureRequest) -> str:
    return request.param


def test_an_honest_resume_goes_on(optimizer: str, tmp_path: Path) -> None:
    """Oracle: the run that never stopped."""
    whole = start(optimizer, tmp_path / "whole", resume=False)
    folder = tmp_path / "again"
    folder.mkdir()
    shutil.copy(tmp_path / "whole/model_0000004.pth", folder)
    again = start(optimizer, folder)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    assert again.iter == LAST


def targets(outside: Path, inside: Path, chance: random.Random) -> list[Any]:
    """Where Detectron2 and torch trust a file."""
    scheduler = ("trainer", "hooks", "LRScheduler")
    group = ("trainer", "optimizer", "param_groups", 0)
    state = ("trainer", "optimizer", "state", 0)
    names = partial(chance.choice, paths(outside, inside))
    keys = ("optimizer", "step", "get_lr", "_multiplier", "base_lrs", "last_epoch", "__class__")
    return [
        *(((*scheduler, key), None) for key in keys),
        *(((*group, key), None) for key in ("lr", "momentum", "betas", "params", "maximize", "x")),
        *(((*state, key), None) for key in ("momentum_buffer", "exp_avg", "step", "evil")),
        (state, None),
        (("trainer", "optimizer", "state", "x"), None),
        (("trainer", "iteration"), None),
        (("trainer", "seed"), None),
        (("trainer", "scaler"), None),
        (("trainer", "_trainer"), None),
        (("trainer", "hooks", "PeriodicCheckpointer"), lambda: {"recent_checkpoints": [names()]}),
        (("trainer", "hooks", "CurvesHook", "losses", "$\\bad{"), lambda: torch.ones(2)),
        (("trainer", "hooks", "CurvesHook", "losses", "loss"), None),
        (("trainer", "hooks", "CurvesHook", "losses"), None),
        (("progress", "images"), None),
        (("progress", "batch"), None),
        (("progress", "batch"), lambda: (0, 0, 0)),
        (("progress", "run"), None),
        (("iteration",), None),
        (("matching_heuristics",), None),
        (("__author__",), lambda: "Caffe2"),
        (("save_dir",), names),
        *(((key,), None) for key in ("trainer", "progress", "model", "evil")),
    ]


def attack(optimizer: str, cases: range, folder: Path) -> Counter[str]:
    start(optimizer, folder / "whole", resume=False)
    content = load_checkpoint(folder / "whole/model_0000004.pth")
    assert {"model", "trainer", "progress", "iteration"} == content.keys()
    outside, outcomes = folder / "outside", Counter()
    for number in cases:
        seed = f"{optimizer} {number}"
        chance = random.Random(seed)
        work = folder / "work"
        canaries(outside, work)
        before = snapshot(outside) | snapshot(work)
        where = targets(outside, work, chance)
        file = work / "model_0000004.pth"
        try:
            torch.save(damage(chance, content, where, outside, work), file)
        except Exception:  # torch cannot write it
            outcomes["not a file"] += 1
            continue
        file.with_name("last_checkpoint").write_text(file.name)
        with watched(work) as seen:
            outcomes[ended(partial(start, optimizer, work), seed)] += 1
        assert seen == [], (seed, seen)
        after = snapshot(outside) | snapshot(work)
        changed = [path for path in before if before[path] != after.get(path)]
        assert changed == [], (seed, changed)
        shutil.rmtree(work)
    return outcomes


@pytest.mark.filterwarnings("ignore")
def test_resume_files(
    optimizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary(capsys, f"resume files, {optimizer}", attack(optimizer, range(DEFAULT // 2), tmp_path))


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
def test_all_resume_files(
    optimizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary(capsys, f"resume files, {optimizer}", attack(optimizer, range(ALL // 2), tmp_path))
