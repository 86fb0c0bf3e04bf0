"""Modes of a training step in one process."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
import torch._inductor.config
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from tests.modes.layers import LAYERS, build, images
from tests.modes.runs import (
    SCENES,
    Call,
    Forward,
    Run,
    close,
    compare,
    float64_state,
    gradients,
    loss,
    reference,
    run,
    statistics,
)  # fmt: skip
from tests.modes.table import mode
from ws_det.estimates import StepEstimates

STEP = "outputs, gradients and statistics of a step to 1e-12 of the largest"


def segment(reentrant: bool) -> Callable[[Forward], Forward]:
    """What makes a segment of activation checkpointing."""
    return lambda f: partial(checkpoint, f, use_reentrant=reentrant)


def every_scene(name: str, wrap: Callable[[Forward], Forward]) -> None:
    for scene in SCENES.values():
        module, x = build(name), images()
        expected = reference(name, module, x, scene)
        compare(run(module, x, scene, wrap), expected)


@mode("plain", f"{STEP}; also of a layer that is used several times")
def plain(name: str) -> None:
    every_scene(name, lambda f: f)


@mode("checkpoint, reentrant", "the same, the layer and its uses in segments of any kind")
def checkpoint_reentrant(name: str) -> None:
    every_scene(name, segment(True))
    checkpoint_in_sequence(name, True)
    checkpoint_of_two_losses(name, True)


@mode("checkpoint, not reentrant", "the same")
def checkpoint_not_reentrant(name: str) -> None:
    every_scene(name, segment(False))
    checkpoint_in_sequence(name, False)
    checkpoint_of_two_losses(name, False)


def checkpoint_in_sequence(name: str, reentrant: bool) -> None:
    """The layer three times, in the segments that checkpoint_sequential makes."""

    def twice(f: Forward, x: Tensor, wrap: Callable[[Forward], Forward]) -> Tensor:
        return f(f(f(x)))

    module, x = build(name), images()
    expected = reference(name, module, x, twice)
    layers = [Call(module)] * 3
    in_two = Call(lambda y: checkpoint_sequential(layers, 2, y, use_reentrant=reentrant))
    x = x.requires_grad_()
    output = in_two(x)
    loss(output).backward()
    compare(Run({"": output.detach()}, gradients(module, x), statistics(module)), expected)


def checkpoint_of_two_losses(name: str, reentrant: bool) -> None:
    """Two segments, each with a backward of its own, in either order, after a third without."""

    def one(f: Forward, x: Tensor, wrap: Callable[[Forward], Forward]) -> Tensor:
        wrap(f)(x[:1] * 3)
        return torch.stack([wrap(f)(x[:1]), wrap(f)(x[1:])])

    wrap = segment(reentrant)
    for order in (1, -1):
        module, x = build(name), images()
        expected = reference(name, module, x, one)
        x = x.requires_grad_()
        wrap(module)(x[:1] * 3)
        outputs = [wrap(module)(x[:1]), wrap(module)(x[1:])]
        # The loss of both, as the reference has it, in two parts.
        for i in (0, 1)[::order]:
            loss(torch.stack([out if i == j else out.detach() for j, out in enumerate(outputs)])
                 ).backward()  # fmt: skip
        output = {"": torch.stack(outputs).detach()}
        compare(Run(output, gradients(module, x), statistics(module)), expected)


@mode("checkpoint, StepEstimates, accumulation",
      "gradients of three passes, and estimates moved once a step")  # fmt: skip
def checkpoint_accumulation(name: str) -> None:
    """Estimates: each pass starts from those of before the step, which ends with their mean."""
    for reentrant in (True, False):
        module, steps = build(name), None
        before = build(name)
        passes = [reference(name, before, x) for x in images(6).split(2)]
        chained = build(name)  # the statistics of a BatchNorm2d go from pass to pass
        steps = StepEstimates(module)
        inputs = [x.clone().requires_grad_() for x in images(6).split(2)]
        for i, x in enumerate(inputs):
            steps.begin_pass()
            loss(segment(reentrant)(module)(x)).backward()
            steps.end_pass(last=i == 2)
        names = [key for key, _ in module.named_parameters()]
        close(
            "gradient",
            {key: p.grad for key, p in module.named_parameters()},
            {key: sum(one.gradient[key] for one in passes) for key in names},
        )
        if name == "BCN":
            for x in inputs:
                chained(x.detach())
            expected = statistics(chained)
        else:
            expected = {
                key: torch.stack([one.statistics[key].double() for one in passes]).mean(0)
                for key in passes[0].statistics
                if not key.endswith("num_batches_tracked")
            }
        got = {key: value for key, value in statistics(module).items() if key in expected}
        close("statistics", got, expected)


@mode("compile, aot_eager", STEP)
def compile_aot_eager(name: str) -> None:
    for scene in ("once", "twice in a segment"):
        module, x = build(name), images()
        expected = reference(name, module, x, SCENES[scene])
        compiled = torch.compile(
            lambda y: SCENES[scene](module, y, lambda f: f),  # noqa: B023
            backend="aot_eager", fullgraph=True,
        )  # fmt: skip
        x = x.requires_grad_()
        output = compiled(x)
        loss(output).backward()
        compare(Run({"": output.detach()}, gradients(module, x), statistics(module)), expected)


@cache
def by_inductor() -> tuple[dict[str, Run], dict[str, Run]]:
    """All layers in one graph, which takes one compilation."""
    modules = {name: build(name) for name in LAYERS}
    inputs = {name: images().requires_grad_() for name in LAYERS}
    expected = {name: reference(name, modules[name], images()) for name in LAYERS}

    @torch.compile(fullgraph=True)
    def outputs(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: modules[name](x) for name, x in inputs.items()}

    # In this process: to start others for it costs more.
    with torch._inductor.config.patch(compile_threads=1):
        found = outputs(inputs)
        sum(loss(output) for output in found.values()).backward()
    runs = {
        name: Run(
            {"": found[name].detach()}, gradients(modules[name], inputs[name]),
            statistics(modules[name]),
        )
        for name in LAYERS
    }  # fmt: skip
    return runs, expected


@mode("compile, inductor", "the same")
def compile_inductor(name: str) -> None:
    runs, expected = by_inductor()
    compare(runs[name], expected[name])


@mode("compile, checkpoint", "the same, segments inside and around what is compiled")
def compile_checkpoint(name: str) -> None:
    def inside(module: nn.Module) -> Forward:
        return torch.compile(segment(False)(module), backend="aot_eager")

    def around(reentrant: bool) -> Callable[[nn.Module], Forward]:
        return lambda m: segment(reentrant)(torch.compile(m, backend="aot_eager"))

    for make in (inside, around(False), around(True)):
        module, x = build(name), images()
        expected = reference(name, module, x)
        x = x.requires_grad_()
        output = make(module)(x)
        loss(output).backward()
        compare(Run({"": output.detach()}, gradients(module, x), statistics(module)), expected)


@mode("autocast to bfloat16, also checkpoint",
      "the plain step to 2^-4, a checkpointed one with it to the last bit")  # fmt: skip
def autocast(name: str) -> None:
    """2^-4: bfloat16 has 8 bits, and sums of some tens of products in up to four layers."""
    plain = None
    for wrap in (lambda f: f, segment(True), segment(False)):
        module, x = build(name, torch.float32), images().float()
        expected = reference(name, module, x)
        x = x.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            output = wrap(module)(x)
        loss(output).backward()
        got = Run({"": output.detach()}, gradients(module, x), statistics(module))
        compare(got, expected, 2**-4)
        plain = plain or got
        compare(got, plain, 0)


@mode("half precision, bfloat16 and float16",
      "outputs and gradients to 2^-4, statistics to 1e-2 and in float32")  # fmt: skip
def half(name: str) -> None:
    """2^-4 as above; statistics see inputs that a convolution before them has rounded."""
    for dtype in (torch.bfloat16, torch.float16):
        module, x = build(name, torch.float32).to(dtype), images().to(dtype)
        expected = reference(name, module, x)
        got = run(module, x)
        assert got.output[""].dtype == dtype
        compare(Run(got.output, got.gradient, {}), Run(*expected[:2], {}), 2**-4)
        close("statistics", got.statistics, expected.statistics, 1e-2)
        for key, value in got.statistics.items():
            assert value.dtype in (torch.float32, torch.int64), key


@mode("two backwards of two forwards", "gradients by backward() and by autograd.grad a loss")
def two_backwards(name: str) -> None:
    for order in (1, -1):
        module, x = build(name), images(4)
        first, second = x[:2].clone().requires_grad_(), x[2:].clone().requires_grad_()
        state = float64_state(module)
        names = [key for key, _ in module.named_parameters()]
        layer = LAYERS[name].reference
        theirs = [layer(state, "", part, True) for part in (first, second)]
        ours = [module(part) for part in (first, second)]
        sums: dict[str, Tensor] = {}
        for i in (0, 1)[::order]:
            leaves = [(first, second)[i], *[state[key] for key in names]]
            expected = torch.autograd.grad(loss(theirs[i]), leaves)
            parameters = dict(module.named_parameters())
            own = [(first, second)[i], *[parameters[key] for key in names]]
            got = torch.autograd.grad(loss(ours[i]), own, retain_graph=True)
            keys = ["input", *names]
            close("gradient", dict(zip(keys, got)), dict(zip(keys, expected)))
            loss(ours[i]).backward()
            for key, grad in zip(names, expected[1:], strict=True):
                sums[key] = sums.get(key, 0) + grad
        close("gradient", {key: p.grad for key, p in module.named_parameters()}, sums)


NO_SECOND = "trying to differentiate twice"


@mode("double backward", "the gradient of a gradient penalty to 1e-10 of the largest",
      refused={"BCN": NO_SECOND, "BCN with estimates": NO_SECOND, "net": NO_SECOND})  # fmt: skip
def double_backward(name: str) -> None:
    """1e-10: the penalty squares gradients that are sums themselves."""
    module, x = build(name), images().requires_grad_()
    state = float64_state(module)
    names = [key for key, _ in module.named_parameters()]
    theirs = LAYERS[name].reference(state, "", x, True)
    expected = penalty_gradients(theirs, [x, *[state[key] for key in names]])
    got = penalty_gradients(module(x), [x, *module.parameters()])
    keys = ["input", *names]
    close("gradient", dict(zip(keys, got)), dict(zip(keys, expected)), 1e-10)


def penalty_gradients(output: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """By backward(): autograd.grad passes over what cannot be differentiated again."""
    grads = torch.autograd.grad(loss(output.tanh()), leaves, create_graph=True)
    for leaf in leaves:
        leaf.grad = None
    sum(grad.square().sum() for grad in grads).backward()
    return [leaf.grad for leaf in leaves]


@mode("channels_last", STEP)
def channels_last(name: str) -> None:
    module, x = build(name), images()
    expected = reference(name, module, x)
    module.to(memory_format=torch.channels_last)
    got = run(module, x.to(memory_format=torch.channels_last))
    compare(got, expected)
