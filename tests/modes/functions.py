"""The transforms of torch.func, in evaluation mode: vmap has no place for moved statistics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap

from tests.modes.layers import LAYERS, build, images
from tests.modes.runs import close, loss, reference, statistics
from tests.modes.table import mode

Tensors = dict[str, Tensor]
Function = Callable[[Tensors, Tensor], Tensor]


def functions(name: str) -> tuple[Tensors, Function, Function]:
    """The parameters, the layer as a function of them and the input, and its reference."""
    module = build(name).eval()
    parameters = {key: p.detach() for key, p in module.named_parameters()}
    buffers = dict(module.named_buffers())
    layer = LAYERS[name].reference
    return (
        parameters,
        lambda p, x: functional_call(module, p, (x,)),
        lambda p, x: layer({**buffers, **p}, "", x, False),
    )


def reference_gradient(theirs: Function, parameters: Tensors, x: Tensor) -> Tensors:
    """By plain autograd."""
    parameters = {key: p.clone().requires_grad_() for key, p in parameters.items()}
    grads = torch.autograd.grad(loss(theirs(parameters, x)), list(parameters.values()))
    return dict(zip(parameters, grads, strict=True))


@mode("func.vmap, in evaluation", "outputs with those of one after the other, to 1e-12")
def by_vmap(name: str) -> None:
    parameters, ours, theirs = functions(name)
    x = images(6).unflatten(0, (3, 2))
    expected = torch.stack([theirs(parameters, part) for part in x])
    close("output", {"": vmap(ours, (None, 0))(parameters, x)}, {"": expected})
    # An ensemble: kernels and affine pairs of their own for each of three.
    many = {key: torch.stack([p, 2 * p, p + 1]) for key, p in parameters.items()}
    expected = torch.stack(
        [theirs({key: p[i] for key, p in many.items()}, x[i]) for i in range(3)]
    )
    close("output", {"": vmap(ours)(many, x)}, {"": expected})


@mode("func.grad and jacrev, in evaluation", "gradients and Jacobians with autograd's, to 1e-12")
def by_grad(name: str) -> None:
    parameters, ours, theirs = functions(name)
    got = grad(lambda p, x: loss(ours(p, x)))(parameters, images())
    close("gradient", got, reference_gradient(theirs, parameters, images()))
    x = images(1, 3)
    expected = torch.autograd.functional.jacobian(lambda y: theirs(parameters, y), x)
    close("jacobian", {"": jacrev(ours, 1)(parameters, x)}, {"": expected})


@mode("func.jvp and jacfwd, in evaluation", "the same by forward AD")
def by_jvp(name: str) -> None:
    parameters, ours, theirs = functions(name)
    x = images(1, 3)
    expected = torch.autograd.functional.jacobian(lambda y: theirs(parameters, y), x)
    close("jacobian", {"": jacfwd(ours, 1)(parameters, x)}, {"": expected})
    tangents = {key: p.cos() for key, p in parameters.items()}
    keys = list(parameters)

    def of_parameters(*values: Tensor) -> Tensor:
        return theirs(dict(zip(keys, values, strict=True)), x)

    _, expected = torch.autograd.functional.jvp(
        of_parameters, tuple(parameters.values()), tuple(tangents.values())
    )
    _, got = jvp(lambda p: ours(p, x), (parameters,), (tangents,))
    close("jvp", {"": got}, {"": expected})


@mode("per-sample gradients, in evaluation", "gradients with those of one image after the other")
def per_sample(name: str) -> None:
    parameters, ours, theirs = functions(name)
    x = images(3)
    got = vmap(grad(lambda p, y: loss(ours(p, y[None]))), (None, 0))(parameters, x)
    each = [reference_gradient(theirs, parameters, part[None]) for part in x]
    close("gradient", got, {key: torch.stack([one[key] for one in each]) for key in parameters})


@mode("func.functional_call and func.grad, in training",
      "gradients, and the statistics that were passed in, to 1e-12")  # fmt: skip
def in_training(name: str) -> None:
    module: nn.Module = build(name)
    expected = reference(name, module, images())
    parameters = {key: p.detach() for key, p in module.named_parameters()}
    buffers = statistics(module)

    def objective(p: Tensors, b: Tensors, x: Tensor) -> Tensor:
        return loss(functional_call(module, (p, b), (x,)))

    got = grad(objective)(parameters, buffers, images())
    close("gradient", got, {key: expected.gradient[key] for key in parameters})
    close("statistics", buffers, expected.statistics)
