"""Two processes leave their group in every way that a run ends. Oracle: exit codes and threads."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import nn

from tests.conftest import REPO, SLOW
from tests.ends import results_of
from ws_det.errors import InputError
from ws_det.leaving import leaving_group

# How a run ends on both ranks, or on rank 1 alone while rank 0 waits for it: the exit codes.
ENDS = {
    "well": [0, 0],
    "InputError": [2, 2],
    "SystemExit": [2, 2],
    "KeyboardInterrupt": [1, 1],
    "RuntimeError": [1, 1],
    "RuntimeError on rank 1": [1, 1],
    "RuntimeError in backward on rank 1": [1, 1],
}
ERRORS = {
    "InputError": InputError("a wrong value"),
    "SystemExit": SystemExit(2),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "RuntimeError": RuntimeError("it broke"),
}
held = []


class Breaks(torch.autograd.Function):
    """The identity, whose gradient fails."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError("it broke")


def be(arguments: list[str]) -> None:
    """A process of a run, with a model in DDP that somebody holds to the end, in a cycle."""
    end = arguments[0]
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    with leaving_group():
        model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
        held.append([model, held])
        chosen = dist.get_rank() == 1 or "rank 1" not in end
        if "backward" in end and chosen:
            first, second = model.module
            model.module.forward = lambda x: second(Breaks.apply(first(x)))
        model(torch.ones(2, 4)).sum().backward()
        dist.broadcast_object_list([end])
        if end != "well" and chosen:
            raise ERRORS[end.partition(" ")[0]]
        if end != "well":
            dist.barrier()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    log = tmp_path_factory.mktemp("ends") / "log"
    starts = [["tests.test_leaving:be", [end]] for end in ENDS]
    job = {"modules": ["tests.test_leaving", *SLOW[:1]], "starts": starts, "log": str(log)}
    found = dict(zip(ENDS, results_of(job), strict=True))
    for number, end in enumerate(ENDS):
        path = Path(f"{log}.{number}")
        found[end]["log"] = path.read_text() if path.is_file() else ""
    return found


@pytest.mark.parametrize("end", ENDS)
def test_no_thread_is_left(end: str, results: dict[str, dict]) -> None:
    """The code is that of the error, and the error is told."""
    result = results[end]
    codes = result["codes"]
    if end == "KeyboardInterrupt":  # Python ends by SIGINT, where it was not started to ignore it
        codes = [1 if code == -signal.SIGINT else code for code in codes]
    assert codes == ENDS[end], result["log"]
    assert result["left"] == [[], []]
    assert "terminate called" not in json.dumps(result)
    for error in ("it broke", "a wrong value"):
        assert (error in result["log"]) == (error in str(ERRORS.get(end.partition(" ")[0])))


def test_a_model_that_imports_late_holds_no_group(tmp_path: Path) -> None:
    """DDP imports functions whose defaults are the group of that moment: in a fresh process."""
    code = f"""
from torch import distributed as dist, nn
from tests.ends import gloo_threads
from ws_det.leaving import leave_group
dist.init_process_group("gloo", init_method="file://{tmp_path}/store", rank=0, world_size=1)
model = nn.parallel.DistributedDataParallel(nn.Linear(4, 4))
assert gloo_threads()
leave_group()
assert gloo_threads() == []
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO, timeout=200)
