"""What a run of MMEngine's takes from a checkpoint, through the tool. Oracle: files that it names.

``test_resume_fuzz`` tries thousands; here are the known ones, one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from tools import train
from ws_det.errors import InputError
from ws_det.intake import Intake
from ws_det.mmdet.intake import _optimizer
from ws_det.mmdet.weights import load_safely

OPTIONS = [f"default_hooks.checkpoint.{o}" for o in ("save_best=coco/bbox_mAP", "max_keep_ckpts=1")]
OPTIONS += ["train_cfg.max_epochs=2"]
BEST = "best_coco_bbox_mAP_epoch_1.pth"


def given(trained: tuple[Path, str], path: Path, info: dict[str, Any], **meta: Any) -> Path:
    """The checkpoint of the first epoch, which says more than it did."""
    content = load_safely(str(trained[0] / "epoch_1.pth"))
    content["meta"] |= meta
    content["message_hub"]["runtime_info"] |= {"best_score": -2.0} | info
    path.parent.mkdir(exist_ok=True)
    torch.save(content, path)
    return path


def test_no_code_runs_and_a_colleagues_best_stays(
    trained: tuple[Path, str],
    tiny_config: Path,
    coco_set: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The config in a checkpoint is a program to MMEngine, and ``best_ckpt`` a file to delete."""
    canary, best = tmp_path / "ran", tmp_path / "colleague" / BEST
    best.parent.mkdir()
    best.write_text("of a colleague")
    mine = tmp_path / "work/epoch_1.pth"  # of an earlier run in this work dir
    mine.parent.mkdir()
    mine.write_text("mine")
    file = given(
        trained,
        tmp_path / "colleague/epoch_1.pth",
        {"best_ckpt": str(best), "keep_ckpt_ids": [1]},
        config=f"import os\nos.mkdir({str(canary)!r})",
    )
    flags = [tiny_config, "--data-root", coco_set, "--work-dir", mine.parent, "--resume", file]
    train.main([*map(str, flags), "--cfg-options", *OPTIONS])
    assert not canary.exists()
    assert best.read_text() == "of a colleague" and mine.read_text() == "mine"
    assert (mine.parent / "epoch_2.pth").is_file()
    assert (mine.parent / BEST).is_file()  # it did save a better one
    left = [line for line in capsys.readouterr().err.splitlines() if "are left out" in line]
    assert len(left) == 1
    for name in ("meta.config", "runtime_info.best_ckpt", "runtime_info.keep_ckpt_ids"):
        assert name in left[0]


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"iter": "3"}, "its meta.iter is '3'"),
        ({"iter": -3}, "its meta.iter is -3"),
        ({"epoch": float("nan")}, "its meta.epoch is nan"),
        ({"iter": 1 << 70}, "its meta.iter is a number of 71 bits"),
        ({"seed": "0"}, "its meta.seed is '0'"),
        ({"ws_det_run": {"batch": (1, 0, 1)}}, "batch is 0"),
        ({"ws_det_run": {"batch": (1, 1, 1), "position": 10**8}}, "position is 100000000"),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_anything_is_written(
    trained: tuple[Path, str],
    tiny_config: Path,
    coco_set: Path,
    refusal: Callable[..., str],
    tmp_path: Path,
    meta: dict[str, Any],
    words: str,
) -> None:
    file = given(trained, tmp_path / "given.pth", {}, **meta)
    flags = [tiny_config, "--data-root", coco_set, "--work-dir", tmp_path / "work"]
    sentence = refusal(train, *flags, "--resume", file)
    assert words in sentence and not (tmp_path / "work").exists()


SCHEDULES = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=4),
    dict(type="MultiStepLR", milestones=[2, 4], by_epoch=False),
    dict(type="StepLR", step_size=2),
    dict(type="ExponentialLR", gamma=0.9),
    dict(type="CosineAnnealingLR", T_max=8, eta_min=0.01),
    dict(type="PolyLR", eta_min=0.01, end=9),
    dict(type="ConstantLR", factor=0.1, end=3),
    dict(type="CosineRestartLR", periods=[3, 4], restart_weights=[1, 0.5], eta_min=0.0),
    dict(type="ReduceOnPlateauLR", monitor="loss", patience=1),
]


def made(schedule: dict[str, Any]) -> tuple[nn.Module, Any, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    cfg = dict(
        type="OptimWrapper",
        optimizer=dict(type="AdamW", lr=0.1, weight_decay=0.01),
        paramwise_cfg=dict(norm_decay_mult=0.0),
    )
    wrapper = build_optim_wrapper(model, cfg)
    return model, wrapper, PARAM_SCHEDULERS.build(schedule, default_args=dict(optimizer=wrapper))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("schedule", SCHEDULES, ids=[s["type"] for s in SCHEDULES])
def test_a_schedule_comes_back(schedule: dict[str, Any], tmp_path: Path) -> None:
    """Through a file. Oracle: the rates of the schedule that never stopped."""
    metric = (dict(loss=1.0),) if schedule["type"] == "ReduceOnPlateauLR" else ()
    model, wrapper, first = made(schedule)
    _, other, second = made(schedule)
    for _ in range(3):
        model(torch.ones(2, 3, 2, 2)).sum().backward()
        wrapper.optimizer.step()
        first.step(*metric)
    torch.save([first.state_dict(), wrapper.state_dict()], tmp_path / "s.pth")
    state, intake = torch.load(tmp_path / "s.pth", weights_only=True), Intake("s.pth")
    second.load_state_dict(intake.like(state[0], second.state_dict(), "schedule"))
    other.load_state_dict(_optimizer(intake, state[1], other))
    assert intake.left == []
    for _ in range(3):
        first.step(*metric)
        second.step(*metric)
        assert first.get_last_value() == second.get_last_value()


class Forged:
    """Pickled as one of MMEngine's log buffers, with a state of its own."""

    def __init__(self, **state: Any) -> None:
        self.state = {"max_length": 9, "_log_history": np.ones(2), "_count_history": np.ones(2)}
        self.state |= state

    def __reduce__(self) -> tuple[Any, ...]:
        return HistoryBuffer, (), self.state


def test_a_log_buffer_cannot_change_the_statistics_of_others(tmp_path: Path) -> None:
    """MMEngine adds the functions that a file names to the table of the class."""
    own = HistoryBuffer([1.0, 3.0], [1, 1])
    forged = Forged(statistics_methods={"mean": torch.Size, "evil": torch.Tensor}, mean="no method")
    torch.save({"state_dict": {}, "log": forged}, tmp_path / "c.pth")
    read = load_safely(str(tmp_path / "c.pth"))["log"]
    assert type(read) is HistoryBuffer and read.mean() == 1.0
    assert own.statistics("mean") == 2.0 and "evil" not in HistoryBuffer._statistics_methods


@pytest.mark.parametrize(
    "forged",
    [
        Forged(_log_history="text"),
        Forged(_count_history=np.ones(1)),
        Forged(_log_history=np.ones((2, 2))),
        Forged(_log_history=np.array([{}, None])),
        Forged(max_length=1),
        np.array([print], dtype=object),
        np.array(["text"]),
    ],
    ids=["text", "lengths", "a matrix", "objects", "too long", "functions", "strings"],
)
def test_arrays_of_no_numbers_are_refused(forged: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "log": forged}, tmp_path / "c.pth")
    with pytest.raises(InputError):
        load_safely(str(tmp_path / "c.pth"))


def test_arrays_and_numbers_of_numpy_come_back(tmp_path: Path) -> None:
    """Oracle: numpy; what was read can be saved and read again."""
    content = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.float32(0.5), "c": np.array(True)}
    for _ in range(2):
        torch.save({"state_dict": {}, **content}, tmp_path / "c.pth")
        content = load_safely(str(tmp_path / "c.pth"))
        del content["state_dict"]
    np.testing.assert_array_equal(content["a"], np.arange(6.0).reshape(2, 3).T)
    assert content["b"] == 0.5 and content["c"].dtype == bool and content["c"]
