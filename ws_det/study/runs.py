"""Run the trainings of a study, several at a time, and never one twice.

A run is a function called with settings in a process of its own, with one thread: several runs use
several cores better than threads do, and none can disturb another. Its folder keeps the settings
and the result (``run.json``) and all that it printed (``log.txt``).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

from ws_det.errors import InputError
from ws_det.lock import alone_in

Results = Mapping[str, dict[str, Any]]
Plan = Callable[[Results], "list[Run]"]
DONE = "run.json"
LOG = "log.txt"
_POLL = 0.2  # seconds


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        name: Of its folder: letters, digits, ``.``, ``_`` and ``-``.
        function: ``package.module:function``, called with the settings and the folder; returns
            what JSON can hold.
        settings: What JSON can hold, the seed included.
    """

    name: str
    function: str
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ValueError(f"{self.name!r} is no name of a folder")

    def task(self) -> dict[str, Any]:
        """What decides the result."""
        return {"function": self.function, "settings": self.settings}


def run_all(
    plan: Plan, folder: Path, jobs: int, say: Callable[[str], None] = print
) -> dict[str, dict[str, Any]]:
    """Run all that a plan names, until it names nothing new.

    Args:
        plan: From the results so far, by name, to every run known to be needed.
        folder: Each run has a folder of its name in it. Runs that are done with the same settings
            are not run again.
        jobs: How many run at a time.
        say: Takes a line for every run that ends, with what is left.

    Returns:
        The results of the plan's runs, by name.

    Raises:
        InputError: If a run fails; the others have ended, and are kept.
    """
    results: dict[str, dict[str, Any]] = {}
    seconds: list[float] = []
    running: dict[str, tuple[Run, subprocess.Popen]] = {}
    failed: list[str] = []
    with alone_in(folder, "--work-dir"), _ended(running):
        while True:
            runs = {run.name: run for run in plan(results)}
            found = {name: _done(run, folder) for name, run in runs.items() if name not in results}
            found = {name: done for name, done in found.items() if done and name not in running}
            for name, done in found.items():
                results[name] = done["result"]
                seconds.append(done["seconds"])
            if found:
                continue  # the plan may know more
            started = {*results, *running, *failed}
            waiting = [run for name, run in runs.items() if name not in started]
            while waiting and len(running) < jobs and not failed:
                run = waiting.pop(0)
                running[run.name] = run, _start(run, folder)
            if not running:
                break
            for name in _wait(running):
                run, _ = running.pop(name)
                done = _done(run, folder)
                if not done:
                    failed.append(name)
                    continue
                results[name] = done["result"]
                seconds.append(done["seconds"])
                left = len(runs) - len(results)
                eta = timedelta(seconds=round(fmean(seconds) * left / jobs))
                say(
                    f"[{len(results)}/{len(runs)}] {name}: {_shown(done['result'])}; "
                    f"{done['seconds']:.0f} s, about {eta} left of the runs known so far"
                )
    if failed:
        raise InputError(
            f"{len(failed)} runs failed, {failed[0]} first: see {folder / failed[0] / LOG}, and "
            f"run the same command again for the rest"
        )
    return {name: results[name] for name in runs}


def _done(run: Run, folder: Path) -> dict[str, Any] | None:
    """What a run of the same settings left."""
    path = folder / run.name / DONE
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    return content if content["task"] == json.loads(json.dumps(run.task())) else None


def _start(run: Run, folder: Path) -> subprocess.Popen:
    place = folder / run.name
    shutil.rmtree(place, ignore_errors=True)  # a killed one, or one of other settings
    place.mkdir(parents=True)
    command = [sys.executable, "-m", "ws_det.study.process", json.dumps(run.task()), str(place)]
    with open(place / LOG, "w") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **_ONE_THREAD}
        )


_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _wait(running: Mapping[str, tuple[Run, subprocess.Popen]]) -> list[str]:
    """Names of those that ended, at least one."""
    while True:
        ended = [name for name, (_, process) in running.items() if process.poll() is not None]
        if ended:
            return ended
        time.sleep(_POLL)


@contextmanager
def _ended(running: Mapping[str, tuple[Run, subprocess.Popen]]) -> Iterator[None]:
    """Leave no process behind, whatever happens."""
    try:
        yield
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()


def _shown(result: Mapping[str, Any]) -> str:
    numbers = [f"{k} {v:.4g}" for k, v in result.items() if isinstance(v, (int, float))]
    return ", ".join(numbers[:3]) or "done"
