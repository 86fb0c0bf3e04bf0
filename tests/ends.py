"""Runs of two processes, one run after the other, and each process ended by Python as it ends any.

They are forked from this process, which has imported what takes long. The argument is JSON:
    modules: what is slow to import
    starts: for each run ["module:function", [argument, ...]]
    log: where the output of the runs goes
It prints JSON for each run: the exit codes of its two processes, and the threads of gloo that were
left in each when the function had returned.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.killed import free_port
from ws_det.errors import run_tool

PROCESSES = 2
GOOD = {"codes": [0] * PROCESSES, "left": [[]] * PROCESSES}
REPO = Path(__file__).resolve().parents[1]


def gloo_threads() -> list[str]:
    """Of this process, as the system names them: the workers, which take Python's lock."""
    names = (Path(task, "comm").read_text().strip() for task in Path("/proc/self/task").iterdir())
    return [name for name in names if name.startswith("pt_gloo")]


def be(rank: int, port: int, function: str, arguments: list[str]) -> None:
    """One process of a run, under the variables of torchrun."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(PROCESSES))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    module, _, name = function.partition(":")
    try:
        run_tool(lambda: getattr(importlib.import_module(module), name)(arguments))
    finally:
        print(f"\nleft {json.dumps(gloo_threads())}", flush=True)


def run(log: Path, function: str, arguments: list[str]) -> dict[str, Any]:
    """Start the processes and wait for them."""
    port, pids = free_port(), []
    log.unlink(missing_ok=True)
    for rank in range(PROCESSES):
        if pid := os.fork():
            pids.append(pid)
            continue
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        be(rank, port, function, arguments)
        sys.exit(0)  # not os._exit: the end is what is looked at
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    left = re.findall(r"^left (\[.*\])$", log.read_text(), re.MULTILINE)
    return {"codes": codes, "left": [json.loads(line) for line in left]}


def main() -> None:
    """All runs."""
    job = json.loads(sys.argv[1])
    for module in job["modules"]:
        importlib.import_module(module)
    gc.freeze()  # a collection looks at what the run made alone, which halves its time
    for number, (function, arguments) in enumerate(job["starts"]):
        log = Path(f"{job['log']}.{number}")
        result = run(log, function, arguments)
        print(json.dumps(result), flush=True)
        if result == GOOD:
            log.unlink()


def results_of(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Do the runs in a process of its own."""
    command = [sys.executable, "-m", "tests.ends", json.dumps(job)]
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as runs:
        yield from (json.loads(line) for line in runs.stdout if line.startswith('{"codes"'))


def check_ends(job: dict[str, Any]) -> None:
    """Ask that each run ends well, with no thread left."""
    began, bad, number = time.time(), [], 0
    for number, result in enumerate(results_of(job), start=1):
        if result != GOOD:
            log = Path(f"{job['log']}.{number - 1}").read_text()
            bad.append(f"{job['starts'][number - 1]}: {result}\n{log[-2000:]}")
        if number % 50 == 0:
            spent, load = time.time() - began, os.getloadavg()[0]
            print(f"{number} runs, {len(bad)} bad; {spent:.0f} s, load {load:.1f}", flush=True)
    print(f"{number - len(bad)} runs of two processes ended well, {len(bad)} not")
    assert not bad, "\n".join(bad)
    assert number == len(job["starts"])


if __name__ == "__main__":
    main()
