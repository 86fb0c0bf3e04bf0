"""What a run takes from a checkpoint. Oracle: torch's own resume, and hostile entries by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from ws_det.errors import InputError
from ws_det.intake import Intake

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1),
    "SGD momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, 0.1, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.1),
    "RAdam": lambda p: torch.optim.RAdam(p, 0.1),
    "Adamax": lambda p: torch.optim.Adamax(p, 0.1),
    "Adadelta": lambda p: torch.optim.Adadelta(p, 0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.1),
    "ASGD": lambda p: torch.optim.ASGD(p, 0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.1, centered=True, momentum=0.9),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.1),
    "Adafactor": lambda p: torch.optim.Adafactor(p, 0.1),
}

SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "MultiStep": lambda o: lr_scheduler.MultiStepLR(o, [2, 4]),
    "Linear": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=4),
    "Exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "Cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 8),
    "Restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "OneCycle": lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=9),
    "Lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "Sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[3]
    ),
}


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, number: int, schedule: Any) -> None:
    for _ in range(number):
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
        schedule.step()


def made(optimizer: str, schedule: str) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    groups = [{"params": model[0].parameters(), "lr": 0.05}, {"params": model[1].parameters()}]
    built = OPTIMIZERS[optimizer](groups)
    return model, built, SCHEDULES[schedule](built)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [*((o, "MultiStep") for o in OPTIMIZERS), *(("SGD momentum", s) for s in SCHEDULES)],
)
def test_a_state_comes_back_to_the_bit(
    optimizer: str, schedule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through a file. Oracle: the run that never stopped."""
    model, built, scheduler = made(optimizer, schedule)
    steps(model, built, 3, scheduler)
    content = {"weights": model.state_dict(), "o": built.state_dict(), "s": scheduler.state_dict()}
    torch.save(content, tmp_path / "c.pth")
    steps(model, built, 3, scheduler)
    again, other, second = made(optimizer, schedule)
    content = torch.load(tmp_path / "c.pth", weights_only=True)
    intake = Intake("c.pth")
    again.load_state_dict(content["weights"])
    taken = intake.optimizer(content["o"], other, "optimizer")
    second.load_state_dict(intake.like(content["s"], second.state_dict(), "schedule"))
    other.load_state_dict(taken)
    steps(again, other, 3, second)
    for own, its in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(own, its)
    assert built.param_groups[0]["lr"] == other.param_groups[0]["lr"]
    intake.tell()
    assert capsys.readouterr().err == ""  # nothing was left out


HOSTILE: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("another shape", lambda c: c["o"]["state"][0].update(momentum_buffer=ONE), "shape"),
    ("one number for many", lambda c: c["o"]["state"][0].update(momentum_buffer=WIDE), "shape"),
    ("no momentum", lambda c: c["o"]["state"][0].update(momentum_buffer="x"), "state.0"),
    ("a rate that is a word", lambda c: c["o"]["param_groups"][0].update(lr="0.1"), "lr is '0.1'"),
    ("a rate that is none", lambda c: c["o"]["param_groups"][0].update(lr=math.nan), "lr is nan"),
    ("a negative rate", lambda c: c["o"]["param_groups"][0].update(lr=-1.0), "not 0 or more"),
    ("no rate", lambda c: c["o"]["param_groups"][0].pop("lr"), "lr is missing"),
    ("other parameters", lambda c: c["o"]["param_groups"][0].update(params=[0, 0]), "parameters"),
    ("another group", lambda c: c["o"]["param_groups"].append({}), "a list of 2"),
    ("a schedule of what is no rate", lambda c: c["s"].update(base_lrs=[0.1]), "a list of 2"),
    ("a step that is none", lambda c: c["s"].update(last_epoch=1 << 400), "401 bits"),
    ("a milestone that is none", lambda c: c["s"].update(milestones={"a": 1}), "milestones"),
]
ONE, WIDE = torch.ones(2), torch.ones(1).expand(9, 9)


@pytest.mark.parametrize(("spoil", "words"), [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE])
def test_what_does_not_fit_is_refused(spoil: Callable[..., Any], words: str) -> None:
    model, optimizer, scheduler = made("SGD momentum", "MultiStep")
    steps(model, optimizer, 1, scheduler)
    content = copy.deepcopy({"o": optimizer.state_dict(), "s": scheduler.state_dict()})
    spoil(content)
    intake = Intake("c.pth")
    with pytest.raises(InputError, match=r"^c\.pth is no checkpoint of this run") as refused:
        intake.optimizer(content["o"], optimizer, "optimizer")
        intake.like(content["s"], scheduler.state_dict(), "schedule")
    assert words in str(refused.value)


@pytest.mark.parametrize("name", ["step", "get_lr", "optimizer", "__class__", "__dict__"])
def test_an_attribute_is_no_state(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """torch puts all of a state into ``__dict__``: then a string stands where a method was."""
    _, _, scheduler = made("SGD", "MultiStep")
    intake = Intake("c.pth")
    state = {**scheduler.state_dict(), name: "os.system('true')"}
    scheduler.load_state_dict(intake.like(state, scheduler.state_dict(), "schedule"))
    assert name not in vars(scheduler) or name == "optimizer"
    assert callable(scheduler.step) and isinstance(scheduler.optimizer, torch.optim.SGD)
    intake.tell()
    assert f"schedule.{name}" in capsys.readouterr().err


def test_flags_stay_those_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint that says ``maximize`` would train backwards."""
    model, optimizer, scheduler = made("SGD momentum", "MultiStep")
    steps(model, optimizer, 1, scheduler)
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][1].update(maximize=True, foreach=3)
    intake = Intake("c.pth")
    taken = intake.optimizer(state, optimizer, "optimizer")
    assert taken["param_groups"][1] == optimizer.state_dict()["param_groups"][1]
    intake.tell()
    assert "param_groups.1.maximize" in capsys.readouterr().err


def test_two_states_that_share_their_numbers_are_parted() -> None:
    """Each would move the other's momentum. Oracle: the addresses."""
    model, optimizer, scheduler = made("SGD momentum", "MultiStep")
    steps(model, optimizer, 1, scheduler)
    state, shared = optimizer.state_dict(), torch.ones(4)
    state["state"][1]["momentum_buffer"] = shared
    state["state"][2]["momentum_buffer"] = shared.view(1, 4)
    taken = Intake("c.pth").optimizer(state, optimizer, "optimizer")["state"]
    first, second = (taken[i]["momentum_buffer"].data_ptr() for i in (1, 2))
    assert first != second
