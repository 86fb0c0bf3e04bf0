"""Accumulation and clipping. Oracle: torch's own optimizer, stepped by hand on the whole batch."""

from __future__ import annotations

import copy
from itertools import cycle

import pytest
import torch
from detectron2.engine import HookBase, launch
from torch import nn

from ws_det.detectron2.train import leave_groups
from ws_det.detectron2.trainer import AccumulatingTrainer


class Squares(nn.Module):
    """A model with Detectron2's interface: inputs in, a dict of losses out."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, batch):
        out = self.linear(batch)
        return {"loss_a": out.square().mean(), "loss_b": out.abs().mean()}


def images(number=4):
    return torch.randn(number, 5, 3, generator=torch.Generator().manual_seed(1))


def train(model, data, iterations=2, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = AccumulatingTrainer(model, optimizer, seed=0, **options)
    trainer.data_loader = cycle(data)
    trainer.train(0, iterations)
    return trainer


def by_hand(model, data, passes, iterations=2, max_norm=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    stream = cycle(data)
    for _ in range(iterations):
        optimizer.zero_grad()
        losses = [sum(model(next(stream)).values()) for _ in range(passes)]
        torch.stack(losses).mean().backward()
        if max_norm:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
    return model


@pytest.mark.parametrize("options", [{}, {"accumulation": 3}, {"max_norm": 0.1}])
def test_steps_are_those_by_hand(options):
    model = Squares()
    expected = by_hand(
        copy.deepcopy(model),
        images(),
        options.get("accumulation", 1),
        max_norm=options.get("max_norm"),
    )
    trainer = train(model, images(), **options)
    # Sums in another order: some units in the last place of float32.
    for own, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-6)
    assert trainer.iter == 2


def test_the_log_has_the_mean_over_the_passes():
    model = Squares()
    data = images(3)
    means = {
        name: torch.stack([model(batch)[name] for batch in data]).mean().item()
        for name in ("loss_a", "loss_b")
    }
    storage = train(model, data, iterations=1, accumulation=3).storage
    for name, mean in means.items():
        assert storage.latest()[name][0] == pytest.approx(mean, rel=1e-6)  # float32
    assert storage.latest()["total_loss"][0] == pytest.approx(sum(means.values()), rel=1e-6)


def test_amp_clips_the_unscaled_gradient():
    """Oracle: the same steps in float32; bfloat16 keeps 8 bits, so 2 % of the largest weight."""
    model = Squares()
    expected = by_hand(copy.deepcopy(model), images(), 2, max_norm=0.1)
    trainer = train(model, images(), accumulation=2, max_norm=0.1, amp=True)
    assert trainer.state_dict()["scaler"]["scale"] > 1
    for own, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=0.02 * other.abs().max().item())


def test_state_comes_back():
    trainer = train(Squares(), images(), amp=True)
    other = AccumulatingTrainer(
        Squares(), torch.optim.SGD(Squares().parameters(), lr=0.5), seed=9, amp=True
    )
    other.load_state_dict(trainer.state_dict())
    assert other.seed == 0 and other.scaler.state_dict() == trainer.scaler.state_dict()


def test_a_loss_that_is_not_finite_stops_before_the_step():
    model = Squares()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(FloatingPointError, match="infinite or NaN"):
        train(model, torch.full((1, 5, 3), float("inf")))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class CountReductions(HookBase):
    """Count the gradient buckets that DDP reduces."""

    def before_train(self):
        self.buckets = 0
        self.trainer.model.register_comm_hook(self, count)


def count(hook, bucket):
    hook.buckets += 1
    group = torch.distributed.group.WORLD
    future = torch.distributed.all_reduce(bucket.buffer(), group=group, async_op=True).get_future()
    return future.then(lambda done: done.value()[0] / torch.distributed.get_world_size())


def ddp_rank(path):
    rank = torch.distributed.get_rank()
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(Squares())
    trainer = AccumulatingTrainer(
        model, torch.optim.SGD(model.parameters(), lr=0.5), seed=0, accumulation=2
    )
    counter = CountReductions()
    trainer.register_hooks([counter])
    trainer.data_loader = cycle(images(8)[rank::2])
    trainer.train(0, 2)
    torch.save((model.module.state_dict(), counter.buckets), f"{path}/{rank}.pth")
    leave_groups()


def test_two_processes_reduce_once_a_step(tmp_path):
    """Oracle: one process with the passes of both; the gradient fits one bucket."""
    launch(ddp_rank, 2, dist_url="auto", args=(str(tmp_path),))
    (first, buckets), (second, _) = (torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1))
    torch.manual_seed(0)
    expected = by_hand(Squares(), images(8), 4).state_dict()
    assert buckets == 2  # for two steps of two passes
    for name, value in expected.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-6, atol=1e-6)  # float32
