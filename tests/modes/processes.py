"""Modes of a training on two processes, which the gloo backend joins."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from tests.modes.layers import LAYERS, build, images
from tests.modes.runs import Run, compare, loss, reference, statistics
from tests.modes.table import mode
from ws_det.estimates import StepEstimates
from ws_det.leaving import leave_group

STEP = "outputs and statistics of each process, mean gradients, to 1e-12 of the largest"
SEGMENTS = {"": None, ", checkpoint not reentrant": False, ", checkpoint reentrant": True}


class Segment(nn.Module):
    """The layer twice, in a segment of activation checkpointing."""

    def __init__(self, layer: nn.Module, reentrant: bool | None) -> None:
        super().__init__()
        self.layer, self.reentrant = layer, reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant is None:
            return self.both(x)
        return checkpoint(self.both, x, use_reentrant=self.reentrant)

    def both(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x))


def twice(f, x, wrap) -> Tensor:
    return f(f(x))


def cases() -> Iterator[tuple[str, str, bool | None, bool]]:
    """Mode, layer, kind of segment and whether FSDP2."""
    for kind, reentrant in SEGMENTS.items():
        for name in LAYERS:
            yield f"DDP{kind}", name, reentrant, False
            if reentrant is not True:
                yield f"FSDP2{kind}", name, reentrant, True


def own_images(rank: int) -> Tensor:
    return images(seed=rank)


def step(name: str, reentrant: bool | None, sharded: bool) -> Run:
    module = Segment(build(name), reentrant)
    if sharded:
        model = fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    else:
        # A layer in two places needs a static graph where segments are reentrant.
        model = DistributedDataParallel(module, broadcast_buffers=False, static_graph=True)
    x = own_images(dist.get_rank()).requires_grad_()
    output = model(x)
    loss(output).backward()
    grads = {"input": x.grad}
    for key, parameter in module.layer.named_parameters():
        grads[key] = parameter.grad.full_tensor() if sharded else parameter.grad
    return Run({"": output.detach()}, grads, statistics(module.layer))


def accumulated(name: str) -> Run:
    """Two passes in checkpointed segments, the estimates moved once, gradients joined once."""
    module = Segment(build(name), False)
    ddp = DistributedDataParallel(module, broadcast_buffers=False)
    steps = StepEstimates(ddp)
    for i, x in enumerate(own_images(dist.get_rank()).split(1)):
        steps.begin_pass()
        if i == 0:
            with ddp.no_sync():
                loss(ddp(x)).backward()
        else:
            loss(ddp(x)).backward()
        steps.end_pass(last=i == 1)
    grads = {key: p.grad for key, p in module.layer.named_parameters()}
    return Run({}, grads, statistics(module.layer))


def on_rank(rank: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    store = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    found: dict[tuple[str, str], Run | str] = {}
    jobs = {(kind, name): partial(step, name, *rest) for kind, name, *rest in cases()}
    jobs |= {(ACCUMULATED, name): partial(accumulated, name) for name in LAYERS}
    for key, job in jobs.items():
        try:
            found[key] = job()
        except Exception as error:
            found[key] = f"{type(error).__name__}: {error}"
    torch.save(found, folder / f"{rank}.pth")
    leave_group()


ACCUMULATED = "DDP, checkpoint, StepEstimates, accumulation"


@cache
def by_two_processes() -> list[dict[tuple[str, str], Run | str]]:
    """What each process found, by mode and layer. Two processes go through all."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(on_rank, args=(Path(folder), port), nprocs=2, start_method="spawn")
        return [torch.load(Path(folder, f"{i}.pth"), weights_only=False) for i in range(2)]


def joined(runs: list[Run], rank: int) -> Run:
    """What this process should have: its own, with the mean gradient of the parameters."""
    grads = {
        key: own if key == "input" else torch.stack([one.gradient[key] for one in runs]).mean(0)
        for key, own in runs[rank].gradient.items()
    }
    return runs[rank]._replace(gradient=grads)


def check(kind: str, name: str) -> None:
    runs = [reference(name, build(name), own_images(rank), twice) for rank in range(2)]
    for rank, found in enumerate(by_two_processes()):
        got = found[kind, name]
        assert isinstance(got, tuple), got
        compare(Run(*got), joined(runs, rank))


def check_accumulated(name: str) -> None:
    """Statistics: the mean over passes and processes, each from those of before the step.

    A BatchNorm2d's are no estimates: they go from pass to pass of each process.
    """
    parts = [own_images(rank).split(1) for rank in range(2)]
    runs = [[reference(name, build(name), x, twice) for x in part] for part in parts]
    for rank, found in enumerate(by_two_processes()):
        got = found[ACCUMULATED, name]
        assert isinstance(got, tuple), got
        grads = {
            key: sum(one.gradient[key] for run in runs for one in run) / 2
            for key in got[1]
        }
        if name == "BCN":
            module = build(name)
            for x in parts[rank]:
                module(module(x))
            moved = statistics(module)
        else:
            moved = {
                key: torch.stack([one.statistics[key].double() for run in runs for one in run])
                .mean(0)
                for key in got[2]
            }
        keep = [key for key in moved if not key.endswith("num_batches_tracked")]
        compare(
            Run({}, got[1], {key: got[2][key] for key in keep}),
            Run({}, grads, {key: moved[key] for key in keep}),
        )


for kind in dict.fromkeys(case[0] for case in cases()):
    mode(kind, STEP if kind == "DDP" else "the same")(partial(check, kind))
mode(ACCUMULATED, "gradients, and estimates moved once a step on both, to 1e-12 of the largest")(
    check_accumulated
)
