"""Leave a process group so that none of its threads outlives it."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

# Before there is a group: where this is imported later, as DDP does, the defaults of its functions
# hold the group to the end of the process.
import torch.distributed.nn.functional  # noqa: F401
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ws_det.errors import InputError


@contextmanager
def leaving_group() -> Iterator[None]:
    """Leave the process group at the end of the block, however it ends; nothing without a group.

    After an error that only this process has, NCCL is left to whoever started the processes: it
    would wait for the others. Gloo fails in them as soon as this process is gone.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, (InputError, SystemExit)) or _by_gloo():
            traceback.clear_frames(error.__traceback__)  # of calls that hold the group
            leave_group()
        raise
    leave_group()


def leave_group() -> None:
    """Destroy every process group and join their threads, while Python still runs.

    A thread of gloo says that a collective is done, and then lets go of its tensors, for which it
    takes Python's lock. Where the process has begun to end by then, Python ends that thread in the
    middle of a destructor, and the process dies of SIGABRT after all its work: "terminate called
    without an active exception". ``destroy_process_group`` joins the threads only of a group that
    nobody else holds, and each model in DDP does.
    """
    if not dist.is_initialized():
        return
    dist.destroy_process_group()
    for model in gc.get_objects():
        if DistributedDataParallel in type(model).__mro__:
            # The group last: the reducer would join with Python's lock held, and never end.
            for name in ("logger", "reducer", "process_group"):
                vars(model).pop(name, None)


def _by_gloo() -> bool:
    return dist.is_initialized() and dist.get_backend() == "gloo"
