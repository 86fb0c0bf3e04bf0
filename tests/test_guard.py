"""The guard against NaN. Oracle: where the fault was planted, and a training without it."""

from __future__ import annotations

import copy
import json
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch import distributed as dist

from ws_det import EstBatchNorm2d
from ws_det.errors import InputError
from ws_det.guard import NanGuard, check_on_nan, gradient_norm
from ws_det.leaving import leave_group

NAN = float("nan")


class Detector(nn.Module):
    """A detector's interface: images in, losses by name out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = EstBatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3)

    def forward(self, images: Tensor, names: list[str]) -> dict[str, object]:
        out = self.second(self.norm(self.first(images)).relu())
        if not out.isfinite().all() and "raise" in names:
            raise FloatingPointError("as Detectron2's proposals do")
        noise = torch.rand(())
        return {"loss_a": out.square().mean(), "loss_b": [out.mean() * noise] * 2, "acc": noise}


def images(value: float = 1.0) -> Tensor:
    return torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * value


def setup(folder: Path, on_nan: str = "stop") -> tuple[Detector, torch.optim.Optimizer, NanGuard]:
    torch.manual_seed(0)
    model = Detector()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, optimizer, NanGuard(model, lambda _, names: names, str(folder), on_nan)


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, guard: NanGuard, *passes: Tensor,
    iteration: int = 7, name: str = "image",
) -> bool:  # fmt: skip
    optimizer.zero_grad()
    for number, batch in enumerate(passes):
        losses = model(batch, [f"{name} {number}", name])
        terms = [losses.get("loss_a", 0), *losses.get("loss_b", ())]
        sum(terms, losses.get("loss_nonfinite", 0)).backward()
    taken = guard.check(iteration, gradient_norm(model.parameters()))
    if taken:
        optimizer.step()
    return taken


def read(folder: Path) -> dict:
    content = json.loads((folder / "nonfinite_iter_7.json").read_text())
    assert content["iteration"] == 7
    return content["ranks"][0]


def plant(model: Detector) -> None:
    with torch.no_grad():
        model.second.weight[1, 2, 0, 0] = float("inf")


def test_a_planted_infinity_is_named(tmp_path: Path) -> None:
    model, optimizer, guard = setup(tmp_path)
    plant(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=r"loss is NaN .* iteration 7, first .* second \(Conv2d\)"):
        step(model, optimizer, guard, images())
    report = read(tmp_path)
    assert report["layer"] == "second" and report["where"] == "forward"
    assert report["input_is_finite"] is True
    assert report["parameter"] == "second.weight" and report["buffer"] is None
    assert set(report["losses"]) == {"loss_a", "loss_b"}
    assert set(report["losses"].values()) <= {"nan", "inf", "-inf"}
    for name, value in model.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("name", ["image", "raise"])
def test_pixels_that_are_nan_are_named_with_their_image(tmp_path: Path, name: str) -> None:
    """Also where the model itself refuses them, and in the second of three passes."""
    model, optimizer, guard = setup(tmp_path)
    with pytest.raises(InputError, match=rf"first .*, whose input is not finite, on {name} 1"):
        step(model, optimizer, guard, images(), images(NAN), images(), name=name)
    report = read(tmp_path)
    assert report["layer"] == "first" and report["input_is_finite"] is False
    assert report["parameter"] is report["buffer"] is None
    assert report["images_of_the_pass"] == [f"{name} 1", name]
    assert len(report["images_of_the_step"]) == 6


def test_a_gradient_that_is_not_finite_under_a_finite_loss(tmp_path: Path) -> None:
    """Oracle: the root at 0 has an infinite slope. The last layer in front of it is at fault."""
    model, optimizer, guard = setup(tmp_path)
    model.second.register_forward_hook(lambda m, i, o: (o * 0).abs().sqrt())
    with pytest.raises(InputError, match=r"gradient is .* first in the backward pass of second"):
        step(model, optimizer, guard, images())
    report = read(tmp_path)
    assert report["loss_is_finite"] and report["where"] == "backward"


def test_a_skipped_step_leaves_no_trace(tmp_path: Path) -> None:
    """Oracle: the same training without the bad image, to the bit."""
    model, optimizer, guard = setup(tmp_path, "skip")
    twin, own, free = setup(tmp_path)
    for number in range(4):
        if number == 2:
            assert not step(model, optimizer, guard, images(), images(NAN))
        for parts in ((model, optimizer, guard), (twin, own, free)):
            torch.manual_seed(number)
            assert step(*parts, images(number + 1))
    for name, value in twin.state_dict().items():
        assert "num_batches" in name or torch.equal(value, model.state_dict()[name]), name


def test_skipping_ends(tmp_path: Path) -> None:
    """Where a weight is not finite at once, else after ten steps in a row."""
    model, optimizer, guard = setup(tmp_path, "skip")
    for _ in range(9):
        assert not step(model, optimizer, guard, images(NAN))
    assert step(model, optimizer, guard, images())  # and the count starts again
    for _ in range(9):
        assert not step(model, optimizer, guard, images(NAN))
    with pytest.raises(InputError):
        step(model, optimizer, guard, images(NAN))
    model, optimizer, guard = setup(tmp_path, "skip")
    plant(model)
    with pytest.raises(InputError, match=r"second\.weight has a value that is not finite"):
        step(model, optimizer, guard, images())


def test_evaluation_and_random_numbers_are_left_alone(tmp_path: Path) -> None:
    model, optimizer, guard = setup(tmp_path)
    with torch.no_grad():
        model.eval()(images(NAN), [])
    assert not guard.unchecked
    model.train()
    torch.manual_seed(3)
    with pytest.raises(InputError):
        step(model, optimizer, guard, images(NAN))
    after = torch.rand(())
    torch.manual_seed(3)
    torch.rand(())  # the model's own draw
    assert torch.equal(after, torch.rand(()))
    guard.close()
    assert "forward" not in vars(model)


def test_an_unknown_reaction_is_refused() -> None:
    with pytest.raises(InputError, match="on_nan='ignore' is unknown: choose stop or skip"):
        check_on_nan("ignore")


def on_rank(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    model, optimizer, guard = setup(folder / "reports")
    ddp = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    said = ""
    for number in range(3):
        bad = rank == 1 and number == 1
        try:
            step(ddp, optimizer, guard, images(NAN if bad else 1), name="raise")
        except InputError as error:
            said = f"{number}: {error}"
            break
    (folder / f"{rank}.txt").write_text(said)
    leave_group()


def test_two_ranks_stop_together(tmp_path: Path) -> None:
    """Only rank 1 has the bad image, and its model raises in forward. Oracle: the same sentence."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(on_rank, args=(port, tmp_path), nprocs=2)
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in range(2))
    assert first == second and first.startswith("1: the loss is NaN") and "on raise 0" in first
    reports = json.loads((tmp_path / "reports/nonfinite_iter_7.json").read_text())["ranks"]
    assert [report["loss_is_finite"] for report in reports] == [True, False]
