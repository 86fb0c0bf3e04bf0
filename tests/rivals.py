"""Two trainings in one work dir. Oracle: the first one's process, killed in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import REPO
from ws_det import lock


def check(
    tool: ModuleType,
    flags: Sequence[str],
    folder: Path,
    refusal: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Start a training, let a second be refused, kill the first: the folder is free.

    Args:
        tool: Of the training.
        flags: Of the tool.
        folder: That it writes.
        refusal: The fixture.
        monkeypatch: The fixture.
    """
    monkeypatch.setattr(lock, "PATIENCE", 0.3)
    log = folder.parent / "log"
    with log.open("w") as output:
        first = subprocess.Popen(
            [sys.executable, str(tool.__file__), *flags],
            env=os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        end = time.time() + 200
        while not (folder / lock.LOCK).is_file():
            assert time.time() < end and first.poll() is None, log.read_text()[-3000:]
            time.sleep(0.02)
        first.send_signal(signal.SIGSTOP)  # it would not wait for us
        said = refusal(tool, *flags, warnings=1)
        assert f"{folder} is in use by process {first.pid} on " in said
        assert Path(str(tool.__file__)).name in said and "wait until that has ended" in said
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    with lock.alone_in(folder, "--work-dir"):
        pass
    assert not (folder / lock.LOCK).exists()
