"""EstBN in MMEngine's training: equal ranks, one collective a step, and named warnings."""

import copy
import os
import socket
from functools import partial, partialmethod
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist
from torch import nn

pytest.importorskip("mmdet", reason="needs MMDetection")

from mmdet.registry import MODELS
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader

import ws_det.mmdet  # noqa: F401
from ws_det import BatchChannelNorm2d, EstBatchNorm2d, WSConv2d
from ws_det.leaving import leave_group
from ws_det.mmdet.hooks import CompileHook, stopped_statistics
from ws_det.normalization import est_batch_norm
from ws_det.norms import average_estimates


def two_processes(function, tmp_path):
    """Run ``function(rank)`` in two gloo processes; return what each returned."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_process, args=(function, port, tmp_path), nprocs=2)
    return [torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(2)]


def _process(rank, function, port, tmp_path):
    os.environ |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(function(rank), tmp_path / f"{rank}.pth")
    leave_group()


def images(rank, step):
    generator = torch.Generator().manual_seed(10 * step + rank)
    return torch.randn(1, 4, 6, 6, generator=generator) * (rank + 1) + step


def train_est_bn(rank):
    """Five steps of EstBN and BCN in DDP; counts the collectives of each average."""
    torch.manual_seed(0)
    model = nn.Sequential(EstBatchNorm2d(4, momentum=0.3), BatchChannelNorm2d(4, 2, estimate=True))
    ddp = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    calls, all_reduce = [], dist.all_reduce
    dist.all_reduce = lambda *args, **kwargs: (calls.append(1), all_reduce(*args, **kwargs))[1]
    for step in range(5):
        ddp(images(rank, step)).square().mean().backward()
        average_estimates(ddp)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return buffers | {"collectives": torch.tensor(len(calls))}


def test_estimates_are_equal_on_two_ranks(tmp_path):
    """Oracle: the other rank, and one process that saw both images of each step."""
    first, second = two_processes(train_est_bn, tmp_path)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert first["collectives"] == 5  # one a step, for two layers
    mean, var = torch.zeros(4), torch.ones(4)
    for step in range(5):
        both = torch.cat([images(0, step), images(1, step)])
        est_batch_norm(both, mean, var, training=True, momentum=0.3)
    torch.testing.assert_close(first["0.running_mean"], mean)
    torch.testing.assert_close(first["0.running_var"], var)


class Normalized(BaseModel):
    """A model of MMEngine's: two norms in a row and their mean square."""

    def __init__(self):
        super().__init__()
        self.norms = nn.Sequential(
            EstBatchNorm2d(4, momentum=0.3), BatchChannelNorm2d(4, 2, estimate=True)
        )

    def forward(self, inputs, mode):
        return {"loss": self.norms(inputs).square().mean()}


def train_accumulating(folder, batches, passes, rank=0):
    """The estimates after MMEngine's own loop."""
    torch.manual_seed(0)
    distributed = dict(launcher="pytorch") if dist.is_initialized() else {}
    runner = Runner(
        model=Normalized(),
        work_dir=str(folder),
        train_dataloader=batches,
        optim_wrapper=dict(
            optimizer=dict(type="SGD", lr=0.1), accumulative_counts=passes, type="OptimWrapper"
        ),
        train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=1),
        custom_hooks=[dict(type="SyncEstBNHook")],
        experiment_name=f"{folder.name}{rank}",
        cfg=dict(
            model_wrapper_cfg=dict(
                type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False
            )
        ),
        **distributed,
    )
    runner.train()
    model = getattr(runner.model, "module", runner.model)
    return {n: b.clone() for n, b in model.named_buffers() if b.is_floating_point()}


def loader(*batches):
    return DataLoader([{"inputs": image} for image in batches], collate_fn=lambda items: items[0])


@pytest.mark.parametrize("left_over", [0, 1])
def test_accumulation_moves_the_estimates_once_a_step(tmp_path, left_over):
    """Oracle: EstBN's formula on the images of each step, in float32. The last step may be short.

    MMEngine makes a step of what is left over.
    """
    data = [images(rank, step) for step in range(3) for rank in range(2)][: 6 - left_over]
    buffers = train_accumulating(tmp_path, loader(*data), passes=2)
    mean, var = torch.zeros(4), torch.ones(4)
    for first in range(0, len(data), 2):
        batch = torch.cat(data[first : first + 2])
        est_batch_norm(batch, mean, var, training=True, momentum=0.3)
    torch.testing.assert_close(buffers["norms.0.running_mean"], mean)
    torch.testing.assert_close(buffers["norms.0.running_var"], var)


def accumulate_on_rank(folder, rank):
    """Six images: on two ranks, three steps of one pass."""
    os.environ |= dict(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    return train_accumulating(folder, loader(*[images(rank, s) for s in range(3)]), 1, rank)


def test_two_passes_equal_two_ranks(tmp_path):
    """Oracle: MMEngine's loop on two ranks; in all layers, for the forward is the same as well."""
    passes = train_accumulating(
        tmp_path / "one", loader(*[images(r, s) for s in range(3) for r in range(2)]), 2
    )
    first, second = two_processes(partial(accumulate_on_rank, tmp_path / "two"), tmp_path)
    for name, buffer in passes.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], buffer)


RESNET = dict(type="ResNet", depth=18, base_channels=8)
FPN = dict(type="FPN", in_channels=[8, 16, 32, 64], out_channels=8, num_outs=5)
LAYERS = dict(
    conv_cfg=dict(type="WSConv2d"), norm_cfg=dict(type="GN", num_groups=4, requires_grad=True)
)


def mean_loss_gradients(batch, wrap=lambda model: model):
    torch.manual_seed(1)
    model = nn.Sequential(
        MODELS.build(RESNET | LAYERS | dict(frozen_stages=-1)), MODELS.build(FPN | LAYERS)
    )
    wrapped = wrap(model)
    # Not the mean square: that of a normalized level is constant, its gradient only noise.
    sum(level.exp().mean() for level in wrapped(batch)).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def pictures():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def train_one_picture(rank):
    return mean_loss_gradients(
        pictures()[rank : rank + 1],
        lambda model: nn.parallel.DistributedDataParallel(model, broadcast_buffers=False),
    )


def test_two_processes_of_one_image_equal_one_process_of_two(tmp_path):
    """Oracle: one process with both images. WS and GN know no batch, so a mean loss is the same.

    Float32, some ten layers deep, the images summed in another order: 1e-4 of the largest entry.
    """
    first, second = two_processes(train_one_picture, tmp_path)
    expected = mean_loss_gradients(pictures())
    assert any(isinstance(m, WSConv2d) for m in MODELS.build(RESNET | LAYERS).modules())
    for name, grad in expected.items():
        assert torch.equal(first[name], second[name]), name
        scale = grad.abs().max()
        torch.testing.assert_close(first[name] / scale, grad / scale, rtol=0, atol=1e-4)


def roi_head_gradients(rank):
    """A box head whose rank 1 has no RoI: every layer must pass it, or DDP waits for ever."""
    torch.manual_seed(0)
    head = MODELS.build(
        dict(
            type="Shared4Conv1FCBBoxHead", in_channels=8, conv_out_channels=8, fc_out_channels=16,
            roi_feat_size=7, num_classes=3, conv_cfg=dict(type="WSConv2d"),
            norm_cfg=dict(type="BCN", num_groups=4, estimate=True),
        )
    )  # fmt: skip
    ddp = nn.parallel.DistributedDataParallel(head, broadcast_buffers=False)
    for _ in range(2):
        scores, boxes = ddp(torch.randn(0 if rank else 5, 8, 7, 7))
        (scores.square().sum() + boxes.square().sum()).backward()
        average_estimates(ddp)
    state = dict(head.named_buffers()) | {n: p.grad for n, p in head.named_parameters()}
    return {name: tensor for name, tensor in state.items() if "num_batches" not in name}


def test_a_rank_without_rois_does_not_hang(tmp_path):
    """Oracle: the other rank; and the numbers are finite."""
    first, second = two_processes(roi_head_gradients, tmp_path)
    for name in first:
        assert torch.equal(first[name], second[name]), name
        assert first[name].isfinite().all(), name


@pytest.mark.parametrize(
    "estimate, options, setting",
    [
        (True, dict(frozen_stages=1, norm_eval=False), "frozen_stages=1"),
        (True, dict(frozen_stages=-1, norm_eval=True), None),  # EstBN is no _BatchNorm
        (False, dict(frozen_stages=-1, norm_eval=True), "norm_eval=True"),
        (False, dict(frozen_stages=1, norm_eval=False), "frozen_stages=1"),
        (True, dict(frozen_stages=-1, norm_eval=False), None),
        (False, dict(frozen_stages=-1, norm_eval=False), None),
    ],
)
def test_settings_that_stop_statistics_are_named(estimate, options, setting):
    """Oracle: whether statistics really move in a training step of mmdet's own ResNet."""
    norm_cfg = dict(type="BCN", num_groups=4, estimate=estimate)
    backbone = MODELS.build(RESNET | options | dict(norm_cfg=norm_cfg))
    backbone.train()  # it returns None
    before = {n: b.clone() for n, b in backbone.named_buffers() if n.endswith("running_mean")}
    backbone(torch.randn(1, 3, 64, 64))
    stopped = [n for n, b in backbone.named_buffers() if n in before and torch.equal(b, before[n])]
    messages = stopped_statistics(nn.ModuleDict({"backbone": backbone}))
    assert bool(messages) == bool(stopped) == (setting is not None)
    if setting:
        assert len(messages) == 1
        assert messages[0].startswith(f"{setting} of backbone")
        assert f"{len(stopped)} " in messages[0]


def test_norms_without_gradient_are_named():
    """Oracle: whether statistics really move; a frozen stage is named once, by its own setting."""
    norm_cfg = dict(type="BCN", num_groups=4, estimate=True, requires_grad=False)
    backbone = MODELS.build(RESNET | dict(frozen_stages=0, norm_eval=False, norm_cfg=norm_cfg))
    backbone.train()
    before = {n: b.clone() for n, b in backbone.named_buffers()}
    backbone(torch.randn(1, 3, 64, 64))
    assert all(torch.equal(b, before[n]) for n, b in backbone.named_buffers())
    layers = sum(n.endswith("running_mean") for n in before)
    messages = stopped_statistics(nn.ModuleDict({"backbone": backbone}))
    assert [m.split(" ")[0] for m in messages] == ["frozen_stages=0", "requires_grad=False"]
    assert " of 1 EstBN" in messages[0]
    assert f" of {layers - 1} EstBN" in messages[1]


def test_compiled_backbone_and_neck_compute_the_same(monkeypatch):
    """Oracle: the model before. Float32, another order of sums over some ten layers."""
    # The graph is what can be wrong here; what a C++ compiler makes of it is torch's to test.
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    torch.manual_seed(1)
    norm = LAYERS | dict(norm_cfg=dict(type="BCN", num_groups=4, estimate=True))
    parts = {"backbone": RESNET | norm | dict(frozen_stages=-1), "neck": FPN | norm}
    model = nn.ModuleDict({name: MODELS.build(part) for name, part in parts.items()})
    twin = copy.deepcopy(model)
    CompileHook().before_train(SimpleNamespace(model=model))
    keys = list(model.state_dict())
    for network in (model, twin):
        levels = network["neck"](network["backbone"](pictures()))
        sum(level.exp().mean() for level in levels).backward()
    assert keys == list(twin.state_dict())
    for (name, own), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        scale = other.grad.abs().max()
        torch.testing.assert_close(
            own.grad / scale, other.grad / scale, rtol=0, atol=1e-3, msg=name
        )
    for own, other in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
