"""Hostile and odd resume files through a real run of MMEngine's, from the tool's own checks on.

Oracle: the interpreter's audit events and canary files. A case runs nothing of the file, touches
nothing but its work dir and in it no file that the run has not written, and ends in a run that
trains to its end, or in one sentence. ``make sweep`` runs all cases.
"""

from __future__ import annotations

import copy
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn
from torch.utils.data import Dataset

from tests.hostile import canaries, damage, paths, programs
from tests.test_fuzz import ended, summary
from tests.watched import snapshot, watched
from ws_det import BatchChannelNorm2d, WSConv2d
from ws_det.checkpoint import state_dict_of
from ws_det.fit import check_whole
from ws_det.mmdet.config import complete
from ws_det.mmdet.resume import lead_to, locate
from ws_det.mmdet.runner import AccumulatingRunner
from ws_det.mmdet.weights import load_safely, use_safe_loader

DEFAULT, ALL = 160, 2000
GIT = "subprocess.Popen ('git', ['git', 'rev-parse', 'HEAD']"  # MMEngine, at each save


class Noise(Dataset):
    """Four images."""

    metainfo = {"classes": ("a", "b"), "palette": [(1, 2, 3), (4, 5, 6)]}  # noqa: RUF012

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": torch.full((2, 4, 4), float(index)), "data_samples": index}


class Tiny(BaseModel):
    """A convolution with estimates behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = WSConv2d(2, 4, 3, bias=False)
        self.norm = BatchChannelNorm2d(4, num_groups=2, estimate=True)
        self.out = nn.Linear(4, 1)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        feature = self.norm(self.conv(torch.stack(list(inputs)))).mean((2, 3))
        out = self.out(feature)
        return {"loss": out.square().mean()} if mode == "loss" else list(out)


class Rising(BaseMetric):
    """A score that is better each time, so that each validation deletes the best before it."""

    score = 0

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        Rising.score += 1
        return {"score": float(Rising.score)}


@pytest.fixture(scope="module", autouse=True)
def parts() -> Iterator[None]:
    """Registered by name, as of a user's own module."""
    MODELS.register_module(name="FuzzTiny", module=Tiny, force=True)
    METRICS.register_module(name="FuzzRising", module=Rising, force=True)
    DATASETS.register_module(name="FuzzNoise", module=Noise, force=True)
    yield
    del MODELS.module_dict["FuzzTiny"], METRICS.module_dict["FuzzRising"]
    del DATASETS.module_dict["FuzzNoise"]


def config(work_dir: Path, resume: Path | None = None, optimizer: str = "SGD") -> Config:
    """Six iterations, two passes a step; from an uneven one on a step is unfinished."""
    data = dict(dataset=dict(type="FuzzNoise"), batch_size=1, num_workers=0)
    settings = dict(lr=0.1, weight_decay=0.01)
    settings |= dict(momentum=0.9, nesterov=True) if optimizer == "SGD" else {}
    cfg = Config(
        dict(
            model=dict(type="FuzzTiny"),
            work_dir=str(work_dir),
            load_from=resume and str(resume),
            resume=resume is not None,
            train_dataloader=dict(data, sampler=dict(type="InfiniteSampler", shuffle=True)),
            train_cfg=dict(type="IterBasedTrainLoop", max_iters=6, val_interval=3),
            val_dataloader=dict(data, sampler=dict(type="DefaultSampler", shuffle=False)),
            val_cfg=dict(type="ValLoop"),
            val_evaluator=dict(type="FuzzRising"),
            optim_wrapper=dict(
                optimizer=dict(type=optimizer, **settings),
                accumulative_counts=2,
                paramwise_cfg=dict(norm_decay_mult=0.0),
            ),
            param_scheduler=[
                dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=3),
                dict(type="MultiStepLR", by_epoch=False, milestones=[4], gamma=0.5),
            ],
            default_hooks=dict(
                logger=dict(type="LoggerHook", interval=100),
                checkpoint=dict(
                    type="CheckpointHook",
                    by_epoch=False,
                    interval=1,
                    max_keep_ckpts=2,
                    save_best="score",
                    rule="greater",
                ),
            ),
            custom_hooks=[dict(type="EMAHook")],
            randomness=dict(seed=5),
            default_scope="mmengine",
            log_level="ERROR",
        )
    )
    complete(cfg, "none")
    cfg.custom_hooks = [
        h for h in cfg.custom_hooks if h["type"] not in ("CurvesHook", "CocoReportHook")
    ]
    return cfg


class Runs:
    """A runner that is built once, and begins anew for each case.

    MMEngine asks the machine what it is when a Runner is made, for half a second.
    """

    def __init__(self, folder: Path, optimizer: str) -> None:
        cfg = config(folder / "built", optimizer=optimizer)
        self.folder, self.optimizer = folder, optimizer
        self.built = AccumulatingRunner.from_cfg(cfg)

    def start(self, work_dir: Path, resume: Path | None = None) -> AccumulatingRunner:
        """As ``ws_det.mmdet.runner.train``."""
        cfg = config(work_dir, resume, self.optimizer)
        point = locate(cfg)
        if point.path:
            state = state_dict_of(load_safely(point.path))
            check_whole(self.built.model, state, point.path, "give another")
        lead_to(cfg, point)
        runner = copy.copy(self.built)
        # What the hooks read of it: MMEngine formats all of it as Python for each checkpoint.
        short = dict(train_dataloader=dict(batch_size=1), optim_wrapper=dict(accumulative_counts=2))
        runner.cfg, runner._work_dir, runner.point = Config(short), str(work_dir), point
        runner._load_from, runner._resume = cfg.load_from, cfg.resume
        runner._randomness_cfg = dict(cfg.randomness)
        runner.set_randomness(**runner._randomness_cfg)
        runner.model = Tiny()
        runner.message_hub = MessageHub("case")
        for name in ("train_dataloader", "val_dataloader", "val_evaluator"):
            setattr(runner, f"_{name}", copy.copy(cfg[name]))
        runner._train_loop, runner._val_loop = dict(cfg.train_cfg), dict(cfg.val_cfg)
        runner.optim_wrapper = copy.deepcopy(cfg.optim_wrapper)
        runner.param_schedulers = copy.deepcopy(cfg.param_scheduler)
        runner._hooks = []
        runner.register_hooks(copy.deepcopy(cfg.default_hooks), copy.deepcopy(cfg.custom_hooks))
        runner.train()
        return runner


@pytest.fixture(scope="module", params=["SGD", "AdamW"])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    use_safe_loader()
    return Runs(tmp_path_factory.mktemp("runs"), request.param)


def forged(**state: Any) -> Any:
    """A log buffer with a state that MMEngine would take as it is."""

    class Forged:
        def __reduce__(self) -> tuple[Any, ...]:
            return HistoryBuffer, (), {"max_length": 9, **state}

    return Forged()


def targets(outside: Path, inside: Path, chance: random.Random) -> list[Any]:
    """Where MMEngine trusts a file."""
    code, names = programs(outside / "ran"), paths(outside, inside)
    info, scheduler = ("message_hub", "runtime_info"), ("param_schedulers", 0)
    group = ("optimizer", "param_groups", 0)
    log = np.zeros(2)
    made: list[Any] = [
        *((("meta", key), partial(chance.choice, code)) for key in ("config", "config", "cfg")),
        *(((*info, key), partial(chance.choice, names)) for key in ("best_ckpt", "last_ckpt")),
        ((*info, "best_ckpt"), partial(chance.choice, names)),
        ((*info, "best_ckpt_score"), partial(chance.choice, names)),
        ((*info, "cfg"), partial(chance.choice, code)),
        ((*info, "keep_ckpt_ids"), lambda: [chance.choice(names), 1, 2, 3]),
        ((*info, "keep_ckpt_ids"), lambda: [-1, 1, 2, 10**30]),
        ((*info, "keep_ckpt_ids"), lambda: list(range(50))),
        ((*info, "best_score"), None),
        *(((*scheduler, key), None) for key in vars(nn.Module).keys() & {"__init__"}),
        *(
            ((*scheduler, key), None)
            for key in ("optimizer", "step", "_get_value", "param_name", "last_step", "__class__")
        ),
        *(((*group, key), None) for key in ("lr", "momentum", "betas", "params", "maximize", "x")),
        (("optimizer", "state", 0), None),
        (("optimizer", "state", 0, "exp_avg"), None),
        (("optimizer", "state", 0, "momentum_buffer"), None),
        (("optimizer", "state", 99), lambda: {"momentum_buffer": torch.ones(2)}),
        (("meta", "ws_det_run", "batch"), lambda: (0, 1, 2)),
        (("meta", "ws_det_run", "position"), None),
        (("estimates", "sum"), None),
        (("estimates", "passes"), None),
        (("gradients", "out.bias"), None),
        (("gradients", "nothing"), None),
        (("ema_state_dict", "steps"), None),
        (
            ("message_hub", "log_scalars", "train/loss"),
            lambda: forged(
                _log_history=log,
                _count_history=log,
                statistics_methods={"mean": torch.Size, "min": torch.Tensor},
            ),
        ),
        (("message_hub", "log_scalars", "train/loss"), lambda: forged(update="no method")),
        (
            ("message_hub", "log_scalars", "train/loss"),
            lambda: forged(_log_history=log, _count_history=log[:1]),
        ),
        (("message_hub", "log_scalars", "train/$\\bad{loss"), lambda: HistoryBuffer([1.0], [1])),
        *(((key,), None) for key in ("message_hub", "optimizer", "param_schedulers", "meta")),
        *(((key,), None) for key in ("gradients", "estimates", "ema_state_dict", "evil")),
    ]
    return made


def test_an_honest_resume_goes_on(runs: Runs, tmp_path: Path) -> None:
    """Oracle: the run that never stopped, and the one best file that it leaves. Else no case."""
    Rising.score = 0
    runs.start(tmp_path / "whole")
    whole = load_safely(str(tmp_path / "whole/iter_6.pth"))
    Rising.score = 1
    runs.start(tmp_path / "resumed", tmp_path / "whole/iter_5.pth")
    again = load_safely(str(tmp_path / "resumed/iter_6.pth"))
    for key in ("state_dict", "ema_state_dict"):
        for name, value in whole[key].items():
            assert torch.equal(value, again[key][name]), name
    assert [p.name for p in (tmp_path / "whole").glob("best*")] == ["best_score_iter_6.pth"]
    # that of the first run is not the second's to delete
    assert [p.name for p in (tmp_path / "resumed").glob("best*")] == ["best_score_iter_6.pth"]


def honest(runs: Runs, folder: Path) -> dict[str, Any]:
    """A checkpoint in the middle of a step."""
    runs.start(folder / "honest")
    content = load_safely(str(folder / "honest/iter_5.pth"))
    assert {"gradients", "estimates", "ema_state_dict", "optimizer"} <= content.keys()
    return content


def test_a_run_deletes_its_own(runs: Runs, tmp_path: Path) -> None:
    """The best of before and what is no longer kept, and no other file."""
    content, work = honest(runs, tmp_path), tmp_path / "work"
    work.mkdir()
    info = content["message_hub"]["runtime_info"]
    info |= {"best_ckpt": str(work / "best_score_iter_3.pth"), "keep_ckpt_ids": [4, 5]}
    torch.save(content, work / "iter_5.pth")
    for name in ("best_score_iter_3.pth", "iter_4.pth", "iter_1.pth", "best_of_mine.pth", "notes"):
        (work / name).write_text("")
    runs.start(work, work / "iter_5.pth")
    left = {path.name for path in work.iterdir() if path.is_file()} - {"last_checkpoint"}
    kept = {"iter_5.pth", "iter_6.pth", "best_score_iter_6.pth"}
    assert {name for name in left if not name.startswith(".")} == kept | {
        *("iter_1.pth", "best_of_mine.pth", "notes")
    }


@pytest.mark.parametrize(
    "name",
    [
        *("../outside/best_score_iter_3.pth", "link/best_score_iter_3.pth", "mine.txt", "."),
        *("best_of_mine.pth", "sub/best_score_iter_1.pth", "best_score_iter_2.pth"),
    ],
)
def test_another_file_stays(runs: Runs, tmp_path: Path, name: str) -> None:
    """That is not of the hook's names or not in its folder, whatever its path looks like."""
    content, work, outside = honest(runs, tmp_path), tmp_path / "work", tmp_path / "outside"
    canaries(outside, work)
    (work / "best_score_iter_2.pth").symlink_to(outside / "best_score_iter_3.pth")
    before = snapshot(outside) | snapshot(work)
    content["message_hub"]["runtime_info"]["best_ckpt"] = f"{work}/{name}"
    torch.save(content, work / "iter_5.pth")
    runs.start(work, work / "iter_5.pth")
    assert (work / "best_score_iter_6.pth").is_file()
    after = snapshot(outside) | snapshot(work)
    assert [path for path in before if before[path] != after.get(path)] == []


def attack(runs: Runs, cases: range, folder: Path) -> Counter[str]:
    content = honest(runs, folder)
    outside, outcomes = folder / "outside", Counter()
    for number in cases:
        seed = f"{runs.optimizer} {number}"
        chance = random.Random(seed)
        work = folder / "work"
        canaries(outside, work)
        before = snapshot(outside) | snapshot(work)
        where = targets(outside, work, chance)
        content["message_hub"]["runtime_info"]["best_ckpt"] = str(work / "best_score_iter_3.pth")
        (work / "best_score_iter_3.pth").write_text("of this run")
        file = chance.choice((work / "iter_5.pth", folder / "given.pth"))
        try:
            torch.save(damage(chance, content, where, outside, work), file)
        except Exception:  # torch cannot write it
            outcomes["not a file"] += 1
            continue
        with watched(work, runs.folder, read=(file,)) as seen:
            outcomes[ended(partial(runs.start, work, file), seed)] += 1
        assert [line for line in seen if not line.startswith(GIT)] == [], (seed, seen)
        after = snapshot(outside) | snapshot(work)
        changed = [path for path in before if before[path] != after.get(path)]
        assert changed == [], (seed, changed)
        shutil.rmtree(work)
    return outcomes


@pytest.mark.filterwarnings("ignore")
def test_resume_files(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary(capsys, f"resume files, {runs.optimizer}", attack(runs, range(DEFAULT // 2), tmp_path))


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
def test_all_resume_files(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary(capsys, f"resume files, {runs.optimizer}", attack(runs, range(ALL // 2), tmp_path))
