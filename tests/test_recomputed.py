"""Norms whose pass activation checkpointing runs again. Oracle: the same net without checkpointing.

Float64, where the plain pass and the repeated one do the same arithmetic on the same numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ws_det import BatchChannelNorm2d, EstBatchNorm2d, InputError, WSConv2d, recomputed
from ws_det.estimates import StepEstimates
from ws_det.normalization import est_batch_norm

EXACT = dict(rtol=1e-12, atol=1e-12)
NORMS = {
    "EstBN": lambda: EstBatchNorm2d(8, momentum=0.3),
    "BCN": lambda: BatchChannelNorm2d(8, 4),
    "BCN estimate": lambda: BatchChannelNorm2d(8, 4, estimate=True, momentum=0.3),
    "BCN hooked": lambda: hooked(BatchChannelNorm2d(8, 4)),
}
FORMS = [True, False]  # reentrant or not

pytestmark = pytest.mark.parametrize("reentrant", FORMS)


def hooked(norm: BatchChannelNorm2d) -> BatchChannelNorm2d:
    """With a hook on the inner norm, which then runs as a module of its own."""
    norm.bn.register_forward_hook(nothing)
    return norm


def nothing(*args: object) -> None:
    pass


def net(norm: str) -> nn.ModuleList:
    """Two segments, the second of which runs its norm twice."""
    first = nn.Sequential(WSConv2d(3, 8, 3, padding=1), NORMS[norm](), nn.ReLU())
    return nn.ModuleList([first, WSConv2d(8, 8, 3, padding=1), NORMS[norm]()]).double()


def first(model: nn.ModuleList, x: Tensor) -> Tensor:
    return model[0](x)


def second(model: nn.ModuleList, x: Tensor) -> Tensor:
    return model[2](model[1](model[2](model[1](x)).relu()))


def forward(model: nn.ModuleList, x: Tensor, call: Callable[..., Tensor]) -> Tensor:
    for segment in (first, second, second):  # the second again: other inputs, later
        x = call(segment, model, x)
    return x


def plain(segment: Callable[..., Tensor], model: nn.ModuleList, x: Tensor) -> Tensor:
    return segment(model, x)


def state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_buffers()
    yield from ((name, p.grad) for name, p in model.named_parameters())


def check_equal(found: nn.Module, expected: nn.Module) -> None:
    for (name, own), (_, other) in zip(state(found), state(expected), strict=True):
        torch.testing.assert_close(own, other, **EXACT, msg=lambda text, n=name: f"{n}: {text}")


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_and_statistics_are_those_of_a_plain_pass(norm: str, reentrant: bool) -> None:
    """Three steps; a norm is in two segments, and twice in one."""
    model = net(norm)
    twin = copy.deepcopy(model)
    repeat = partial(checkpoint, use_reentrant=reentrant)
    for _ in range(3):
        x, weights = draw(2, 3, 7, 6).requires_grad_(), draw(2, 8, 7, 6)
        y = x.detach().clone().requires_grad_()
        (forward(model, x, repeat) * weights).sum().backward()
        (forward(twin, y, plain) * weights).sum().backward()
        torch.testing.assert_close(x.grad, y.grad, **EXACT)
        check_equal(model, twin)


@pytest.mark.parametrize("norm", NORMS)
def test_passes_of_the_same_input_are_told_apart(norm: str, reentrant: bool) -> None:
    """An image that comes again: twice in a segment, in two segments, and in step after step."""
    model = NORMS[norm]().double()
    twin = copy.deepcopy(model)
    x, weights = draw(2, 8, 5, 5).requires_grad_(), draw(4, 2, 8, 5, 5)

    def twice(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        return model(x), model(x)

    for _ in range(3):
        outs = [o for _ in range(2) for o in checkpoint(twice, model, x, use_reentrant=reentrant)]
        expected = [o for _ in range(2) for o in twice(twin, x)]
        for results in (outs, expected):
            sum((o * w).sum() for o, w in zip(results, weights, strict=True)).backward()
        check_equal(model, twin)


@pytest.mark.parametrize("norm", NORMS)
def test_accumulation_with_step_estimates(norm: str, reentrant: bool) -> None:
    """Three passes a step, which start from the same estimates and wait for no other."""
    model = net(norm)
    twin = copy.deepcopy(model)
    for each, call in ((model, partial(checkpoint, use_reentrant=reentrant)), (twin, plain)):
        estimates = StepEstimates(each)
        generator = torch.Generator().manual_seed(3)
        for number in range(6):
            x = torch.randn(1, 3, 6, 6, generator=generator, dtype=torch.float64).requires_grad_()
            estimates.begin_pass()
            forward(each, x, call).square().sum().backward()
            estimates.end_pass(last=number % 3 == 2)
    check_equal(model, twin)


@pytest.mark.parametrize("norm", NORMS)
def test_many_passes_wait_for_one_backward(norm: str, reentrant: bool) -> None:
    """As in contrastive losses: backward meets the passes in another order than they ran in."""
    model = net(norm)
    twin = copy.deepcopy(model)
    images = [draw(1, 3, 6, 6).requires_grad_() for _ in range(9)]
    for each, call in ((model, partial(checkpoint, use_reentrant=reentrant)), (twin, plain)):
        outs = [forward(each, x, call) for x in images]
        for number in (4, 0, 8):
            outs[number].square().sum().backward(retain_graph=True)
        sum(o.square().sum() for o in outs).backward()
    check_equal(model, twin)


@pytest.mark.parametrize("norm", NORMS)
def test_under_autocast(norm: str, reentrant: bool) -> None:
    """bfloat16 on the CPU: the repeated pass rounds as the first did, its statistics are equal.

    Gradients of the passes of a layer may be added in another order, or cast before and not after.
    """
    model = net(norm).float()
    twin = copy.deepcopy(model)
    x = torch.randn(2, 3, 7, 6).requires_grad_()
    for each, call in ((model, partial(checkpoint, use_reentrant=reentrant)), (twin, plain)):
        with torch.autocast("cpu", torch.bfloat16):
            out = forward(each, x, call)
        out.float().square().sum().backward()
    for (name, own), (_, other) in zip(state(model), state(twin), strict=True):
        bound = 0 if "running" in name else 2 * torch.finfo(torch.bfloat16).eps * other.abs().max()
        assert (own - other).abs().max() <= bound, name


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("norm", ["EstBN", "BCN", "BCN estimate"])
def test_with_the_compiler(norm: str, outside: bool, times: int, reentrant: bool) -> None:
    """A compiled net in checkpointing, and checkpointing in a compiled net, once and twice.

    The compiler sums in another order.
    """
    torch._dynamo.reset()
    layers = nn.Conv2d(3, 8, 3), NORMS[norm](), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=2)
    model = nn.Sequential(*layers).double()
    twin = copy.deepcopy(model)
    repeat = partial(checkpoint, use_reentrant=reentrant)
    compiled = partial(torch.compile, backend="aot_eager")
    inner = compiled(model) if outside else model

    def segments(x: Tensor) -> Tensor:
        for _ in range(times):
            x = repeat(inner, x)
        return x

    call = segments if outside else compiled(segments)
    for _ in range(3):
        x = draw(2, 3, 6, 6).requires_grad_()
        call(x).square().mean().backward()
        (twin(twin(x)) if times == 2 else twin(x)).square().mean().backward()
        check_equal(model, twin)


def test_the_functional_form(reentrant: bool) -> None:
    """No layer: the record is that of the buffer."""
    results = []
    for call in (lambda f, x: checkpoint(f, x, use_reentrant=reentrant), lambda f, x: f(x)):
        mean, var = torch.zeros(3).double(), torch.ones(3).double()
        x = torch.linspace(-1, 2, 96, dtype=torch.float64).reshape(2, 3, 4, 4).requires_grad_()
        step = partial(est_batch_norm, running_mean=mean, running_var=var, training=True)
        out = call(step, call(step, x).exp())
        out.square().sum().backward()
        results.append((x.grad, mean, var))
    for own, other in zip(*results, strict=True):
        torch.testing.assert_close(own, other, **EXACT)


@pytest.mark.parametrize("norm", ["EstBN", "BCN estimate", "BCN"])
def test_a_pass_of_which_no_record_is_left_is_refused(norm: str, reentrant: bool) -> None:
    """More passes wait than are kept: one sentence, and nothing from the statistics of another."""
    model = NORMS[norm]().double()
    images = [draw(1, 8, 4, 4).requires_grad_() for _ in range(recomputed.KEPT + 1)]
    outs = [checkpoint(model, x, use_reentrant=reentrant) for x in images]
    outs[1].sum().backward()  # the oldest that is kept
    with pytest.raises(InputError, match=f"at most {recomputed.KEPT} passes wait"):
        outs[0].sum().backward()


def test_a_batch_of_nan_is_repeated_too(reentrant: bool) -> None:
    """Its gradient is NaN, and its statistics move nothing."""
    model = BatchChannelNorm2d(8, 4, estimate=True)
    x = torch.full((1, 8, 4, 4), float("nan"), requires_grad=True)
    checkpoint(model, x, use_reentrant=reentrant).sum().backward()
    assert x.grad.isnan().all()
    assert not model.bn.running_mean.any()
