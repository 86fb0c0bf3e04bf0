"""One run at a time writes a folder. Oracles: other processes, and a canary that nobody touches."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO
from ws_det import lock
from ws_det.errors import InputError
from ws_det.lock import LOCK, alone_in

# Holds the lock of a folder; with a worker that is forked and outlives it, as a data loader's may.
HOLDER = """
import os, sys, time
from ws_det.lock import alone_in
with alone_in(sys.argv[1], "--work-dir"):
    worker = os.fork() if len(sys.argv) > 2 else 0
    if worker or len(sys.argv) == 2:
        print(worker, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.3)


def start(folder: Path, *more: str) -> tuple[subprocess.Popen, int]:
    """A process that has the lock, and the worker that it forked."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), *more],
        cwd=REPO,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout
    return holder, int(holder.stdout.readline())


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    process, _ = start(tmp_path / "run")
    yield process
    process.kill()
    process.wait()


def test_the_second_is_refused(tmp_path: Path, holder: subprocess.Popen) -> None:
    with pytest.raises(InputError) as refused, alone_in(tmp_path / "run", "--work-dir"):
        pass
    said = str(refused.value)
    for part in (f"{tmp_path / 'run'} is in use by process {holder.pid} on", socket.gethostname()):
        assert part in said
    assert f"since {time.strftime('%Y-%m-%d')}" in said and "(-c " in said
    assert said.endswith("wait until that has ended, end it, or give another --work-dir")
    with alone_in(tmp_path / "other", "--work-dir"):
        pass


def test_nothing_is_left(tmp_path: Path) -> None:
    """Nor a folder made for the lock alone; one that was there or holds something stays."""
    with alone_in(tmp_path / "new/er", "--work-dir"):
        assert (tmp_path / "new/er" / LOCK).is_file()
    assert list(tmp_path.iterdir()) == []
    with alone_in(tmp_path / "new/er", "--work-dir"):
        (tmp_path / "new/file").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "file"]


def test_killed_with_a_worker_that_lives_on(tmp_path: Path) -> None:
    process, worker = start(tmp_path, "fork")
    try:
        with pytest.raises(InputError), alone_in(tmp_path, "--work-dir"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.kill(worker, 0)  # it lives
        with alone_in(tmp_path, "--work-dir"):
            assert f"process {os.getpid()} " in (tmp_path / LOCK).read_text()
        os.kill(worker, 0)
    finally:
        os.kill(worker, signal.SIGKILL)


def test_one_that_is_dying_is_waited_for(
    tmp_path: Path,
    holder: subprocess.Popen,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 20.0)
    killer = subprocess.Popen(["/bin/sh", "-c", f"sleep 1; kill -9 {holder.pid}"])
    with alone_in(tmp_path / "run", "--work-dir"):
        assert holder.wait(timeout=0.5) == -9
    killer.wait()
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and "waiting 20 s for its end" in said[0]


def test_many_at_once(tmp_path: Path) -> None:
    """Each removes the file of the lock at its end. Oracle: a file that only one can make."""
    code = f"""
import os
from ws_det import lock
lock.PATIENCE, lock._POLL = 60.0, 0.001
for _ in range(60):
    with lock.alone_in({str(tmp_path / "run")!r}, "--work-dir"):
        os.close(os.open({str(tmp_path / "one")!r}, os.O_CREAT | os.O_EXCL))
        os.unlink({str(tmp_path / "one")!r})
"""
    command = [sys.executable, "-c", code]
    others = [subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE) for _ in range(4)]
    said = [other.communicate()[1].decode() for other in others]
    assert [other.returncode for other in others] == [0] * 4, said
    assert not any("cannot be locked" in text for text in said)
    assert not list(tmp_path.rglob(LOCK)) and not (tmp_path / "one").exists()


@pytest.mark.parametrize("planted", ["link", "dangling", "folder", "fifo", "hard link"])
def test_what_is_planted_is_not_followed(
    planted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canary, place, work = tmp_path / "canary", tmp_path / "run" / LOCK, tmp_path / "run"
    canary.write_text("alive")
    work.mkdir()
    if planted == "link":
        place.symlink_to(canary)
    elif planted == "dangling":
        place.symlink_to(tmp_path / "made")
    elif planted == "folder":
        place.mkdir()
    elif planted == "fifo":
        os.mkfifo(place)
    else:
        place.hardlink_to(canary)
    before = os.lstat(place)
    with alone_in(work, "--work-dir"):
        pass
    assert canary.read_text() == "alive" and os.path.samestat(os.lstat(place), before)
    assert {path.name for path in tmp_path.iterdir()} == {"canary", "run"}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "cannot be locked" in said[0]


def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    with alone_in(tmp_path, "--work-dir"):
        pass
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"warning: {tmp_path} cannot be locked (No locks available): start no second run in it"
    ]


def test_no_folder_to_lock(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = pytest.raises(InputError, match=r"file/run cannot be written .* another --work-dir")
    with refused, alone_in(tmp_path / "file/run", "--work-dir"):
        pass
