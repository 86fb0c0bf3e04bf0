"""What WS and BCN keep, compute and send, counted. Oracle: counts by hand, exact where times vary.

The other half, which needs the heads of a framework, is in tests/mmdet/test_counts.py.
"""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist
from torch import nn

from ws_det import BatchChannelNorm2d, WSConv2d, convert_to_ws, standardize_weight
from ws_det.bench.bcn import SHAPES
from ws_det.bench.counts import OperatorCounter, operators, saved_bytes
from ws_det.bench.model import ResNetFPN
from ws_det.leaving import leave_group
from ws_det.norms import average_estimates


def test_saved_bytes_counts_a_storage_once_and_parameters_never() -> None:
    x, weight = torch.randn(10, requires_grad=True), torch.randn(10, requires_grad=True)
    assert saved_bytes(lambda: x.exp()) == 40  # the result
    assert saved_bytes(lambda: x * weight) == 80
    assert saved_bytes(lambda: x * weight, [weight]) == 40
    assert saved_bytes(lambda: x[:5] * x[5:]) == 40  # two views of one storage
    assert saved_bytes(lambda: x + weight) == 0
    assert saved_bytes(lambda: [(x + 1).exp(), (x + 2).exp()]) == 80


def test_operators_are_counted_and_views_are_not() -> None:
    x = torch.randn(4, requires_grad=True)
    with OperatorCounter() as counter:
        (x.view(2, 2).mul(3)).sum().backward()
    # Backward of a sum is a view (expand) of ones.
    assert counter.counts == {"mul": 2, "sum": 1, "ones_like": 1} | {
        name: 1 for name in counter.counts if name == "detach"
    }
    assert operators(lambda: x.exp().view(2, 2) + 1) == 2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("estimate", [True, False])
def test_bcn_keeps_what_group_norm_keeps(shape: tuple[int, ...], estimate: bool) -> None:
    """One activation. The 5% are for statistics by channel, where GroupNorm has them by group."""
    x = torch.randn(shape, requires_grad=True)
    saved = []
    for norm in (nn.GroupNorm(32, shape[1]), BatchChannelNorm2d(shape[1], 32, estimate=estimate)):
        saved.append(saved_bytes(partial(norm, x), norm.state_dict().values()))
    group, ours = saved
    assert x.nbytes <= group and ours <= 1.05 * group


def test_ws_keeps_its_kernels_and_no_more() -> None:
    """A whole backbone and neck. The 1% is for the deviations, with and without epsilon."""
    image = torch.randn(1, 3, 64, 64)
    saved = []
    for model in (ResNetFPN(), convert_to_ws(ResNetFPN())):
        saved.append(saved_bytes(partial(model, image), model.state_dict().values()))
    plain, standardized = saved
    kernels = sum(m.weight.nbytes for m in model.modules() if isinstance(m, WSConv2d))
    assert kernels <= standardized - plain <= 1.01 * kernels


def counted(step) -> int:
    with OperatorCounter() as counter:
        step()
    return counter.counts["native_layer_norm"]


def test_a_kernel_is_standardized_once_a_call() -> None:
    """native_layer_norm is the kernel that standardizes: nothing is kept from call to call."""
    weight = torch.randn(4, 4, 3, 3, requires_grad=True)
    assert counted(lambda: [standardize_weight(weight) for _ in range(3)]) == 3
    conv = WSConv2d(4, 4, 3, padding=1)
    levels = [torch.randn(1, 4, size, size) for size in (16, 8, 4)]
    for _ in range(2):
        assert counted(lambda: sum(conv(level).sum() for level in levels).backward()) == 3


KINDS = {
    "GN": (nn.Conv2d, lambda: nn.GroupNorm(4, 8)),
    "WS+GN": (WSConv2d, lambda: nn.GroupNorm(4, 8)),
    "WS+BCN": (WSConv2d, lambda: BatchChannelNorm2d(8, 4, estimate=True)),
}


def collectives(kind: str) -> int:
    """Of the third step in DDP, which arranges its buckets in the first two."""
    conv, norm = KINDS[kind]
    layers = [conv(3, 8, 3), norm(), conv(8, 8, 3), norm()]
    ddp = nn.parallel.DistributedDataParallel(nn.Sequential(*layers), broadcast_buffers=False)
    for _ in range(3):
        with OperatorCounter() as counter:
            ddp(torch.randn(1, 3, 9, 9)).square().mean().backward()
            average_estimates(ddp)
    return sum(n for name, n in counter.counts.items() if name.startswith("c10d::"))


def count_on_rank(rank: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    store = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.save({kind: collectives(kind) for kind in KINDS}, folder / f"{rank}.pth")
    leave_group()


def test_ws_sends_nothing_and_bcn_one_message_a_step(tmp_path: Path) -> None:
    """Two processes. Beyond DDP's own, seen with GN: 0 for WS, 1 for the estimates of all norms."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(count_on_rank, args=(tmp_path, port), nprocs=2, start_method="spawn")
    for rank in range(2):
        counts = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        own = counts["GN"]
        assert own >= 1
        assert counts == {"GN": own, "WS+GN": own, "WS+BCN": own + 1}
