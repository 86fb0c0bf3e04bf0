"""A run of two processes that is killed again and again, and resumed each time.

The processes are forked from this one, which has imported all that takes long. Its argument is
JSON: kills, seed, work_dir, and the arguments of the tool. It prints JSON for each kill: when,
whether a checkpoint was being written, the newest checkpoint, and where the next start resumed.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
import traceback
from pathlib import Path

import mmdet.models  # noqa: F401

import ws_det.mmdet.runner  # noqa: F401
from tests.mmdet.test_resume import free_port
from tools import train


def start(arguments: list[str], log: Path) -> list[int]:
    """Two ranks in a group of their own."""
    port, pids = str(free_port()), []
    for rank in ("0", "1"):
        if pid := os.fork():
            pids.append(pid)
            continue
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(
            RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port
        )
        try:
            train.main(arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pids


def newest(work_dir: Path) -> int:
    """Every file with a checkpoint's name has to be whole."""
    found = (re.fullmatch(r"iter_(\d+)\.pth", path.name) for path in work_dir.glob("*"))
    return max((int(match[1]) for match in found if match), default=0)


def wait(kind: str, draw: random.Random, work_dir: Path) -> None:
    """Until the moment to kill: at the start, between checkpoints, or in the writing of one."""
    if kind == "starting":
        time.sleep(draw.uniform(0, 3))
        return
    before, end = newest(work_dir), time.time() + 120
    while newest(work_dir) == before and time.time() < end:
        time.sleep(0.01)
    if kind == "running":
        time.sleep(draw.uniform(0, 1))
        return
    while not list(work_dir.glob(".*.part")) and time.time() < end:
        time.sleep(0.0002)
    time.sleep(draw.choice((0, 0.001, 0.003)))


def main() -> None:
    job = json.loads(sys.argv[1])
    draw, work_dir = random.Random(job["seed"]), Path(job["work_dir"])
    for number in range(job["kills"] + 1):
        log = work_dir.with_name(f"{number}.log")
        last = newest(work_dir)
        pids = start(job["arguments"], log)
        if number < job["kills"]:
            kind = draw.choice(("starting", "running", "writing"))
            wait(kind, draw, work_dir)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        resumed = re.search(r"resumed epoch: \d+, iter: (\d+)", log.read_text())
        print(
            json.dumps(
                {
                    "codes": codes,
                    "kind": kind if number < job["kills"] else "ended",
                    "part": bool(list(work_dir.glob(".*.pth.*.part"))),
                    "last": last,
                    "resumed": int(resumed[1]) if resumed else None,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
