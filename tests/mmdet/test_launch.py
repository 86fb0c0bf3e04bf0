"""Process groups by gloo, and refusals by several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO, run
from ws_det.errors import InputError
from ws_det.mmdet import launch


@pytest.mark.parametrize("launcher", ["pytorch", "slurm", "mpi"])
def test_launcher_without_its_variables(launcher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the sentence has the variable and a command that would set it."""
    for name in launch._VARIABLES[launcher]:
        monkeypatch.delenv(name, raising=False)
    missing = launch._VARIABLES[launcher][0]
    with pytest.raises(InputError, match=f"{missing} is not set: start with `"):
        launch.process_group(launcher).__enter__()


@pytest.mark.parametrize("launcher", ["slurm", "mpi"])
def test_other_launchers_join(launcher: str) -> None:
    """The launcher's own variables alone make a group. Oracle: torch's view of it."""
    code = (
        "from torch import distributed as d; from ws_det.mmdet import launch\n"
        f"with launch.process_group({launcher!r}):\n"
        "    print(d.get_backend(), d.get_rank(), d.get_world_size(), launch.is_local_main())"
    )
    variables = dict(zip(launch._VARIABLES[launcher], ("0", "1", "0", "1")))
    if launcher == "slurm":
        variables["MASTER_ADDR"] = "127.0.0.1"  # else asked of scontrol
    environment = os.environ | variables | {"MASTER_PORT": "29571", "PYTHONPATH": str(REPO)}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines()[-1:] == ["gloo 0 1 True"], done.stderr


def test_two_processes_refuse_with_one_sentence(tiny_config: Path, tmp_path: Path) -> None:
    """Only the first process checks the data; both end, one speaks, nothing is written."""
    done = run(
        "train",
        tiny_config,
        "--data-root",
        "/nowhere",
        "--work-dir",
        tmp_path / "work",
        "--launcher",
        "pytorch",
        processes=2,
    )
    assert done.returncode != 0
    assert done.stdout.count("error: ") == 1 and "/nowhere" in done.stdout
    assert "exitcode  : 2" in done.stdout  # of a process, as torchrun reports it
    assert not (tmp_path / "work").exists()
