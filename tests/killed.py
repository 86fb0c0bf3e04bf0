"""A training that is killed again and again, and resumed each time.

Its processes are forked from this one, which has imported what takes long. The argument is JSON:
    kills, seed, work_dir
    modules: what is slow to import
    tool, arguments, processes
    saved: matches the name of a checkpoint, with its number
    resumed: matches the log of a process that resumed one, with its number
It prints JSON for each start: exit codes, the kind of moment, whether a checkpoint was being
written, the newest one before the start, and the resumed one.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any


def free_port() -> int:
    """A port that nobody has yet."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(job: dict[str, Any], log: Path) -> list[int]:
    """Processes that have the variables of torchrun if there are several."""
    port, pids, processes = str(free_port()), [], job["processes"]
    for rank in map(str, range(processes)):
        if pid := os.fork():
            pids.append(pid)
            continue
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if processes > 1:
            os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=str(processes))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        code = 1
        try:
            importlib.import_module(f"tools.{job['tool']}").main(job["arguments"])
            code = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)
    return pids


def newest(job: dict[str, Any]) -> int:
    """Every file with a checkpoint's name has to be whole."""
    names = (path.name for path in Path(job["work_dir"]).glob("*"))
    found = (re.fullmatch(job["saved"], name) for name in names)
    return max((int(match[1]) for match in found if match), default=-1)


def parts(job: dict[str, Any]) -> list[Path]:
    """Checkpoints that are being written."""
    return list(Path(job["work_dir"]).glob(".*.pth.*.part"))


def wait(kind: str, draw: random.Random, job: dict[str, Any]) -> None:
    """Until the moment to kill: at the start, between checkpoints, or in the writing of one."""
    if kind == "starting":
        time.sleep(draw.uniform(0, 3))
        return
    before, end = newest(job), time.time() + 120
    while newest(job) == before and time.time() < end:
        time.sleep(0.01)
    if kind == "running":
        time.sleep(draw.uniform(0, 0.3))
        return
    while not parts(job) and time.time() < end:
        time.sleep(0.0002)
    time.sleep(draw.choice((0, 0.001, 0.003)))


def main() -> None:
    """Kill, and let the last start come to its end."""
    job = json.loads(sys.argv[1])
    for module in job["modules"]:
        importlib.import_module(module)
    draw = random.Random(job["seed"])
    for number in range(job["kills"] + 1):
        log = Path(f"{job['work_dir']}.{number}.log")
        last, kind = newest(job), "to the end"
        pids = start(job, log)
        if number < job["kills"]:
            kind = draw.choice(("starting", "running", "writing"))
            wait(kind, draw, job)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        resumed = re.search(job["resumed"], log.read_text()) if log.is_file() else None
        result = {"codes": codes, "kind": kind, "writing": bool(parts(job)), "last": last}
        result["resumed"] = int(resumed[1]) if resumed else None
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
