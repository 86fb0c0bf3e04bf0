"""What standardizing the kernels of a whole detector costs, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ws_det.bench.counts import operators
from ws_det.bench.model import mask_rcnn_kernels
from ws_det.bench.peers import Peer
from ws_det.bench.rounds import Comparison, Target, check_equal, why_no_compiler
from ws_det.functional import standardize_weight

BARE, OURS, COMPILED = "bare multiply (the bound)", "ws_det", "ws_det compiled"


def compare_ws(peers: Sequence[Peer], quick: bool = False, device: str = "cpu") -> Comparison:
    """Ours, compiled and not, against the peers and against reading and writing every weight once.

    No convolution runs and the gradients are given: all forward, then all backward, as in a step.

    Args:
        peers: Whom to compare with.
        quick: A narrow model's kernels.
        device: Where they are.

    Raises:
        RuntimeError: If a peer does not compute what its formula in ws_det does.
    """
    shapes = mask_rcnn_kernels(quick)
    kernels = [(0.05 * torch.randn(s, device=device)).requires_grad_() for s in shapes]
    grads = [torch.randn(shape, device=device) for shape in shapes]
    methods = {BARE: lambda weight: weight * 1.1, OURS: standardize_weight}
    methods |= {peer.name: peer.standardize for peer in peers}
    arms = {name: _step(_each(method), kernels, grads) for name, method in methods.items()}
    skipped = {}
    if reason := why_no_compiler():
        skipped[COMPILED] = reason
    else:
        # One graph of all kernels, as when a model is compiled.
        arms[COMPILED] = _step(torch.compile(_each(standardize_weight)), kernels, grads)
    for peer in peers:
        ours = _step(_each(partial(standardize_weight, formula=peer.formula)), kernels, grads)
        # Two float32 roundings; ten times what is seen.
        check_equal(peer.name, arms[peer.name](), ours(), rtol=1e-5)
    if COMPILED in arms:
        check_equal(COMPILED, arms[COMPILED](), arms[OURS](), rtol=1e-5)
    counted = {
        name: operators(_step(_each(method), kernels[-1:], grads[-1:]))
        for name, method in methods.items()
    }
    weights = sum(shape.numel() for shape in shapes)
    return Comparison(
        f"Standardize {len(shapes)} kernels, {weights / 1e6:.1f} M weights, forward + backward",
        arms,
        baseline=BARE,
        targets=_targets({peer.formula: peer.name for peer in peers}, COMPILED in arms),
        skipped=skipped,
        counts={"operators a kernel": counted},
    )


def _each(method: Callable[[Tensor], Tensor]) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    return lambda kernels: [method(kernel) for kernel in kernels]


def _step(
    forward: Callable[[Sequence[Tensor]], list[Tensor]],
    kernels: Sequence[Tensor],
    grads: Sequence[Tensor],
) -> Callable[[], list[Tensor]]:
    def step() -> list[Tensor]:
        for kernel in kernels:
            kernel.grad = None
        out = forward(kernels)
        torch.autograd.backward(out, grads)
        return [*out, *(kernel.grad for kernel in kernels)]

    return step


def _targets(names: dict[str, str], compiled: bool) -> list[Target]:
    targets = [Target(OURS, names["ws"], 1 / 4), Target(OURS, names["timm"], 1.0)]
    if compiled:
        targets += [Target(COMPILED, names["ws"], 1 / 6), Target(COMPILED, BARE, 2.2)]
    return targets
