"""Runs of several processes, one after the other, each process ended by Python as it ends any.

They are forked from this process, which has imported what takes long. The argument is JSON:
    modules: what is slow to import
    starts: for each run ["module:function", [argument, ...]]
    log: where the output of the runs goes; ``{port}`` in an argument is a free port
It prints JSON for each run: the exit codes of its two processes, and the threads of gloo that were
left in them when the function had returned.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from tests.killed import free_port
from ws_det.errors import run_tool

PROCESSES = 2


def gloo_threads() -> list[str]:
    """Of this process, as the system names them; those that take Python's lock are its workers."""
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
        print(f"left {json.dumps(gloo_threads())}", flush=True)


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
    return {"codes": codes, "left": [name for line in left for name in json.loads(line)], "told": len(left)}


def main() -> None:
    """All runs."""
    job = json.loads(sys.argv[1])
    for module in job["modules"]:
        importlib.import_module(module)
    for number, (function, arguments) in enumerate(job["starts"]):
        log = Path(f"{job['log']}.{number}")
        result = run(log, function, arguments)
        print(json.dumps(result), flush=True)
        if result == {"codes": [0] * PROCESSES, "left": [], "told": PROCESSES}:
            log.unlink()


if __name__ == "__main__":
    main()
