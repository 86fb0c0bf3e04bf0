"""Be one process of a Detectron2 run, which ``launch`` would spawn and import everything for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from detectron2.engine.launch import _distributed_worker

from tools import train_detectron2
from ws_det.detectron2 import train


def main(arguments: Sequence[str]) -> None:
    """Run the tool in a process that has the variables of torchrun."""
    train.launch = _join
    train_detectron2.main(arguments)


def _join(
    work: Callable[..., None], processes: int, machines: int, machine: int, url: str, args: tuple
) -> None:
    url = f"tcp://127.0.0.1:{os.environ['MASTER_PORT']}"
    rank = int(os.environ["RANK"])
    _distributed_worker(rank, work, processes * machines, processes, machine, url, args)
