"""WS convolutions wherever torch's work. Oracle: tests/dropin.py, the formula in torch's own words.

All in float64. The two add in another order, and a second derivative divides by a std three times
over, so that some of the sixteen digits are lost: 1e-10 of the largest value.
"""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from tests.dropin import LAYERS, ByHand, layer
from ws_det import WSConv2d, standardize_weight

Call = Callable[[dict[str, Tensor], Tensor], Tensor]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs) > 0
    for got, expected in zip(ours, theirs):
        assert got.shape == expected.shape
        error = (got - expected).abs().max() / expected.abs().max().clamp_min(1)
        assert error < 1e-10, error


def loss_of(call: Call) -> Call:
    return lambda params, x: call(params, x).sin().square().sum()


def gradients(call: Call, params: dict, x: Tensor) -> list[Tensor]:
    x = x.requires_grad_()
    out = call(params, x)
    return [out, *torch.autograd.grad(out.sin().square().sum(), [*params.values(), x])]


def two_backwards(call: Call, params: dict, x: Tensor) -> list[Tensor]:
    losses = [loss_of(call)(params, part) for part in x.split(1)]
    return [g for loss in losses for g in torch.autograd.grad(loss, list(params.values()))]


def recomputed(reentrant: bool) -> Callable:
    def mode(call: Call, params: dict, x: Tensor) -> list[Tensor]:
        x = x.requires_grad_()
        inner = lambda x, *values: call(dict(zip(params, values)), x)  # noqa: E731
        out = checkpoint(inner, x, *params.values(), use_reentrant=reentrant)
        out.sin().square().sum().backward()
        return [x.grad, *(p.grad for p in params.values())]

    return mode


def penalty(call: Call, params: dict, x: Tensor) -> list[Tensor]:
    """The gradient penalty of a GAN: a gradient of a gradient's norm."""
    x = x.requires_grad_()
    (slope,) = torch.autograd.grad(call(params, x).sin().sum(), x, create_graph=True)
    return list(torch.autograd.grad((slope.norm() - 1).square(), list(params.values())[:1]))


def third_order(call: Call, params: dict, x: Tensor) -> list[Tensor]:
    out, found = loss_of(call)(params, x), []
    for _ in range(3):
        (slope,) = torch.autograd.grad(out, params["weight"], create_graph=True)
        out = (slope * torch.linspace(-1, 1, slope.numel()).view_as(slope)).sum()
        found.append(slope.detach())
    return found


def forward_mode(call: Call, params: dict, x: Tensor) -> list[Tensor]:
    tangent = torch.cos(torch.arange(params["weight"].numel()).double())
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(params["weight"], tangent.view_as(params["weight"]))
        return list(forward_ad.unpack_dual(call({**params, "weight": dual}, x)))


def batched_grads(call: Call, params: dict, x: Tensor) -> list[Tensor]:
    """The backward of a plain forward, mapped: torch.autograd.functional.jacobian(vectorize)."""
    out = call(params, x[:1])
    basis = torch.eye(out.numel(), dtype=x.dtype).view(-1, *out.shape)
    return list(torch.autograd.grad(out, params["weight"], basis, is_grads_batched=True))


def per_sample(call: Call, params: dict, x: Tensor) -> list[Tensor]:
    one = lambda params, sample: loss_of(call)(params, sample[None])  # noqa: E731
    return list(vmap(grad(one), in_dims=(None, 0))(params, x).values())


def ensemble(call: Call, params: dict, x: Tensor) -> list[Tensor]:
    stacked = {name: torch.stack([p, p.cos(), 2 * p], 1) for name, p in params.items()}
    one = grad(loss_of(call), argnums=(0, 1))
    grads, slope = vmap(one, in_dims=(1, None))(stacked, x)
    return [*grads.values(), slope]


def nested(call: Call, params: dict, x: Tensor) -> list[Tensor]:
    """Each of two kernels with each sample, and its Jacobian forward over reverse."""
    weights = torch.stack([params["weight"], params["weight"].cos()])
    slope = grad(lambda w, sample: loss_of(call)({**params, "weight": w}, sample[None]))
    pairs = vmap(vmap(slope, (None, 0)), (0, None))(weights, x)
    direction = torch.ones_like(weights[0])
    turn = lambda w, s: jvp(lambda w: slope(w, s), (w,), (direction,))[1]  # noqa: E731
    return [pairs, vmap(vmap(turn, (None, 0)), (0, None))(weights, x)]


def on_weight(transform: Callable) -> Callable:
    def mode(call: Call, params: dict, x: Tensor) -> list[Tensor]:
        return [transform(lambda w: call({**params, "weight": w}, x[:1]))(params["weight"])]

    return mode


def a_hessian(call: Call, params: dict, x: Tensor) -> list[Tensor]:
    return [hessian(lambda w: loss_of(call)({**params, "weight": w}, x))(params["weight"])]


def vector_jacobian(call: Call, params: dict, x: Tensor) -> list[Tensor]:
    out, pull = vjp(call, params, x)
    found, slope = pull(out.cos())
    return [out, *found.values(), slope]


def traced(call: Call, params: dict, x: Tensor) -> list[Tensor]:
    """A graph of forward and backward, run with another weight than it was made with."""
    step = lambda params, x: [loss_of(call)(params, x), *grad(loss_of(call))(params, x).values()]  # noqa: E731
    params = {name: p.detach() for name, p in params.items()}
    graph = make_fx(step)(params, x)
    return graph({name: p.cos() for name, p in params.items()}, x)


def compiled(call: Call, params: dict, x: Tensor) -> list[Tensor]:
    torch._dynamo.reset()
    return gradients(torch.compile(call, backend="aot_eager"), params, x)


MODES = {
    "gradients": gradients,
    "two backwards": two_backwards,
    "checkpoint, reentrant": recomputed(True),
    "checkpoint": recomputed(False),
    "gradient penalty": penalty,
    "third order": third_order,
    "forward mode": forward_mode,
    "batched grads": batched_grads,
    "per-sample gradients": per_sample,
    "ensemble": ensemble,
    "nested": nested,
    "jacrev": on_weight(jacrev),
    "jacfwd": on_weight(jacfwd),
    "hessian": a_hessian,
    "vjp": vector_jacobian,
    "make_fx": traced,
    "compiled": compiled,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LAYERS)
def test_mode(name: str, mode: str) -> None:
    chosen = layer(name)
    x, params = chosen.input(), chosen.params()
    results = []
    for call in (chosen.call, chosen.oracle):
        own = {key: p.detach().clone().requires_grad_() for key, p in params.items()}
        results.append(MODES[mode](call, own, x.clone()))
    assert_same(*results)


@pytest.mark.parametrize("formula", ["ws", "bit"])
def test_gradgradcheck(formula: str) -> None:
    """Oracle: finite differences, also mapped and in forward mode."""
    weight = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    call = lambda w: standardize_weight(w, formula=formula)  # noqa: E731
    batched = dict(check_batched_grad=True, check_batched_forward_grad=True)
    assert torch.autograd.gradcheck(call, weight, check_forward_ad=True, **batched)
    assert torch.autograd.gradgradcheck(call, weight, check_batched_grad=True)


def test_second_derivatives_of_constant_filters_are_finite() -> None:
    weight = torch.full((2, 3, 3, 3), 0.1, requires_grad=True)
    out = standardize_weight(weight).cos().sum()
    (slope,) = torch.autograd.grad(out, weight, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), weight)
    assert second.isfinite().all()


def gan(conv: nn.Module, x: Tensor) -> list[Tensor]:
    """A discriminator sees a real and a fake batch, each with its own backward."""
    real, fake = conv(x), conv(-x)
    real.square().sum().backward()
    fake.sin().sum().backward()
    return [conv.weight.grad, conv.bias.grad]


def siamese(conv: nn.Module, x: Tensor) -> list[Tensor]:
    one, other = conv(x), conv(x.flip(0))
    (one - other.detach()).square().sum().backward()
    (other - one.detach()).square().sum().backward()
    return [conv.weight.grad]


def gradient_per_loss(conv: nn.Module, x: Tensor) -> list[Tensor]:
    losses = [conv(level).square().sum() for level in (x, x[..., ::2], x[..., ::4])]
    return [torch.autograd.grad(loss, conv.weight)[0] for loss in losses]


def data_written(conv: nn.Module, x: Tensor) -> list[Tensor]:
    """With an earlier graph alive, whose gradients come last."""
    alive = conv(x)
    conv.weight.data.mul_(torch.linspace(-1, 2, conv.weight.numel()).view_as(conv.weight))
    second = conv(x)
    (own,) = torch.autograd.grad(second.square().sum(), conv.weight)
    return [alive, second, own]


def data_replaced(conv: nn.Module, x: Tensor) -> list[Tensor]:
    alive = conv(x)
    conv.weight.data = torch.randn_like(conv.weight, generator=torch.manual_seed(1))
    return [alive, conv(x)]


def rewrapped(conv: nn.Module, x: Tensor) -> list[Tensor]:
    """A new Parameter on the same memory while an earlier graph lives gets the gradient."""
    conv.weight = nn.Parameter(conv.weight.detach().clone())
    alive = conv(x)
    conv.weight = nn.Parameter(conv.weight.data)
    conv(x).square().sum().backward()
    return [alive, conv.weight.grad]


def called_with_another(conv: nn.Module, x: Tensor) -> list[Tensor]:
    alive = conv(x)
    return [alive, functional_call(conv, {"weight": conv.weight.cos()}, (x,)), conv(x)]


def under_make_fx(conv: nn.Module, x: Tensor) -> list[Tensor]:
    """A graph of a module that has been called before, run after its weight has changed."""
    alive = conv(x)
    graph = make_fx(lambda w, x: functional_call(conv, {"weight": w}, (x,)))(conv.weight, x)
    return [alive, graph(conv.weight.cos(), x)]


def checked(conv: nn.Module, x: Tensor) -> list[Tensor]:
    """``gradcheck`` writes into the weight's memory, between passes of one graph."""
    small = x[:1, :, :3, :3]
    conv(small)

    def call(weight: Tensor) -> Tensor:
        return conv(small)

    assert torch.autograd.gradcheck(call, conv.weight)
    return [conv(x)]


def stepped(conv: nn.Module, x: Tensor) -> list[Tensor]:
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        conv(x).square().mean().backward()
        optimizer.step()
    return [conv(x)]


def copied(conv: nn.Module, x: Tensor) -> list[Tensor]:
    alive, other = conv(x), copy.deepcopy(conv)
    with torch.no_grad():
        other.weight.sin_()
    other(x).square().sum().backward()
    alive.square().sum().backward()
    return [conv.weight.grad, other.weight.grad]


def on_threads(conv: nn.Module, x: Tensor) -> list[Tensor]:
    """Eight threads go forward and backward on one module, each with its own input."""
    found: list[list[Tensor]] = [[] for _ in range(8)]

    def work(i: int) -> None:
        for _ in range(5):
            out = conv(x * (i + 1)).sin().sum()
            found[i].append(torch.autograd.grad(out, conv.weight)[0])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [tensor for tensors in found for tensor in tensors]


def without_and_with_gradients(conv: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        first = conv(x)
    with torch.inference_mode():
        second = conv(x).clone()
    conv(x).square().sum().backward()
    return [first, second, conv.weight.grad]


def held(conv: nn.Module, x: Tensor) -> list[Tensor]:
    out = conv(x)
    for _ in range(2):
        out.square().sum().backward(retain_graph=True)
    return [conv.weight.grad]


SCENES = [
    gan, siamese, gradient_per_loss, data_written, data_replaced, rewrapped, called_with_another,
    under_make_fx, checked, stepped, copied, on_threads, without_and_with_gradients, held,
]  # fmt: skip


@pytest.mark.parametrize("scene", SCENES)
def test_scene(scene: Callable[[nn.Module, Tensor], list[Tensor]]) -> None:
    """What people do with a convolution. Oracle: the same with ``ByHand``."""
    ours = WSConv2d(4, 6, 3, padding=1).double()
    theirs = ByHand(4, 6, 3, padding=1).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    assert_same(scene(ours, x), scene(theirs, x))


def forward(conv: nn.Module, x: Tensor, chance: random.Random, alive: list[Tensor]) -> list[Tensor]:
    alive.append(conv(x))
    return [alive[-1].detach()]


def forward_in_segment(
    conv: nn.Module, x: Tensor, chance: random.Random, alive: list[Tensor]
) -> list[Tensor]:
    alive.append(checkpoint(conv, x, use_reentrant=chance.random() < 0.5))
    return [alive[-1].detach()]


def backward(
    conv: nn.Module, x: Tensor, chance: random.Random, alive: list[Tensor]
) -> list[Tensor]:
    if not alive:
        return []
    alive.pop(chance.randrange(len(alive))).sin().sum().backward()
    return [x.grad, *(p.grad for p in conv.parameters() if p.grad is not None)]


def write_data(conv: nn.Module, x: Tensor, chance: random.Random, alive: list[Tensor]) -> list:
    alive[:] = []  # a segment would be computed again with the new weight, in torch as well
    conv.weight.data.mul_(chance.uniform(0.5, 2)).add_(chance.uniform(-1, 1) * x.detach().mean())
    return []


def wrap_again(conv: nn.Module, x: Tensor, chance: random.Random, alive: list[Tensor]) -> list:
    conv.weight = nn.Parameter(conv.weight.data)
    return []


def step(conv: nn.Module, x: Tensor, chance: random.Random, alive: list[Tensor]) -> list[Tensor]:
    alive[:] = []
    torch.optim.SGD(conv.parameters(), lr=0.01).step()
    conv.zero_grad()
    return [p.detach().clone() for p in conv.parameters()]


def differentiate_sample(
    conv: nn.Module, x: Tensor, chance: random.Random, alive: list[Tensor]
) -> list[Tensor]:
    params = {name: p.detach() for name, p in conv.named_parameters()}
    one = lambda params, x: functional_call(conv, params, (x[None],)).sin().sum()  # noqa: E731
    return list(vmap(grad(one), in_dims=(None, 0))(params, x.detach()).values())


OPERATIONS = [
    forward, forward, forward, forward_in_segment, backward, backward, write_data, wrap_again, step,
    differentiate_sample,
]  # fmt: skip


def run_sequences(count: int) -> int:
    """Random sequences on both layers, each result compared; returns how many were compared."""
    compared = 0
    for seed in range(count):
        torch.manual_seed(seed)
        ours, theirs = (kind(3, 4, 3).double() for kind in (WSConv2d, ByHand))
        theirs.load_state_dict(ours.state_dict())
        x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
        order = random.Random(seed).choices(OPERATIONS, k=12)
        results = []
        for conv in (ours, theirs):
            chance, alive, own = random.Random(seed), [], x.clone().requires_grad_()
            results.append([t.clone() for op in order for t in op(conv, own, chance, alive)])
        if results[0]:
            assert_same(*results)
        compared += len(results[0])
    return compared


def test_random_sequences() -> None:
    print(f"{run_sequences(30)} results compared")


@pytest.mark.sweep
def test_many_random_sequences() -> None:
    print(f"{run_sequences(1000)} results of 1000 sequences compared")
