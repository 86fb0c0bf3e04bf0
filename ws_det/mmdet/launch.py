"""Start the process group a launcher asks for, and let all processes refuse bad input as one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed as dist

from ws_det.checks import check_gpus
from ws_det.errors import InputError
from ws_det.leaving import leaving_group

T = TypeVar("T")
LAUNCHERS = ("none", "pytorch", "slurm", "mpi")
# What each launcher calls rank, world size, rank on this machine, processes on this machine.
_VARIABLES = {
    "pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
    "mpi": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
}
_START = {
    "pytorch": "torchrun --nproc_per_node=2 tools/train.py CONFIG --launcher pytorch",
    "slurm": "srun --ntasks=2 python tools/train.py CONFIG --launcher slurm",
    "mpi": "mpirun -np 2 python tools/train.py CONFIG --launcher mpi",
}
# COCO evaluation runs on one rank while the others wait, on large sets for longer than torch's
# default of ten minutes.
_TIMEOUT = timedelta(hours=1)


@contextmanager
def process_group(launcher: str) -> Iterator[str]:
    """Hold a process group open: NCCL if there are GPUs, gloo if not.

    MMEngine would start NCCL on a machine without GPUs and fail there. It uses a group that
    exists already, so this one is started before its Runner. Under torchrun ``none`` means
    ``pytorch``: processes that do not know of each other would write one work dir.

    Args:
        launcher: One of ``LAUNCHERS``.

    Yields:
        The launcher in use.

    Raises:
        InputError: The launcher's variables are not set, or there are more processes than GPUs.
    """
    if launcher == "none" and dist.is_torchelastic_launched():
        launcher = "pytorch"
    if launcher == "none":
        yield launcher
        return
    _join(launcher)
    with leaving_group():
        yield launcher


def is_local_main() -> bool:
    """Whether this is the first process of its machine, which checks what lies there."""
    return not dist.is_initialized() or os.environ["LOCAL_RANK"] == "0"


def is_first() -> bool:
    """Whether this is the first process of all, which writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


@contextmanager
def refuse_together() -> Iterator[None]:
    """If one process refuses its input, end all: that one with its sentence, the others quietly.

    Raises:
        InputError: On the lowest rank that raised it inside the block.
        SystemExit: With code 2, on every other rank.
    """
    refusal: InputError | None = None
    try:
        yield
    except InputError as error:
        refusal = error
    if not dist.is_initialized():
        if refusal:
            raise refusal
        return
    refused = [False] * dist.get_world_size()
    dist.all_gather_object(refused, refusal is not None)
    if any(refused):
        if dist.get_rank() == refused.index(True) and refusal:
            raise refusal
        raise SystemExit(2)


def from_first(value: T) -> T:
    """What the first process has, on every one."""
    box = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(box)
    return box[0]


def _join(launcher: str) -> None:
    names = _VARIABLES[launcher]
    missing = [name for name in names[:3] if name not in os.environ]
    if missing:
        raise InputError(
            f"--launcher {launcher} but {missing[0]} is not set: start with `{_START[launcher]}`"
        )
    rank, world_size, local_rank = (os.environ[name] for name in names[:3])
    gpus = torch.cuda.device_count()
    check_gpus(int(os.environ.get(names[3], int(local_rank) + 1)), gpus)
    os.environ.update(RANK=rank, WORLD_SIZE=world_size, LOCAL_RANK=local_rank)
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = _first_host(launcher)
    os.environ.setdefault("MASTER_PORT", "29500")
    if gpus:
        torch.cuda.set_device(int(local_rank))
    store = _store_of_restart() if world_size == os.environ.get("LOCAL_WORLD_SIZE") else None
    dist.init_process_group(
        "nccl" if gpus else "gloo",
        timeout=_TIMEOUT,
        store=store,
        rank=int(rank) if store else -1,
        world_size=int(world_size) if store else -1,
    )


def _store_of_restart() -> dist.Store | None:
    """What processes that torchrun started again meet in; None where it did not.

    torchrun keeps one store for all its starts (torch 2.13), in which a process can find the
    address of one that is dead, and wait for it. The number of the start keeps them apart; on
    several machines it may not be the same, see docs/training.md.
    """
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if not restarts:
        return None
    store, _, _ = next(dist.rendezvous("env://", timeout=_TIMEOUT))
    return dist.PrefixStore(f"restart_{restarts}", store)


def _first_host(launcher: str) -> str:
    if launcher != "slurm":
        return "127.0.0.1"
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
