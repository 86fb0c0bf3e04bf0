"""What BCN costs beside GroupNorm, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ws_det.bench.counts import operators, saved_bytes
from ws_det.bench.peers import AuthorsBCN
from ws_det.bench.rounds import Comparison, Target, check_equal, why_no_compiler
from ws_det.norms import BatchChannelNorm2d

GROUPS = 32
SHAPES = ((2, 256, 64, 64), (1, 64, 200, 304), (1, 1024, 50, 76))
BASELINE = "GroupNorm"
# By whether the statistics are estimates: the form for micro-batches and that for large ones.
FORMS = {True: "micro-batch", False: "large-batch"}
# Most that each form may cost beside GroupNorm, eager and compiled.
LIMITS = {True: (2.2, 1.5), False: (2.5, 1.5)}


def compare_bcn(
    shape: tuple[int, int, int, int], quick: bool = False, device: str = "cpu"
) -> Comparison:
    """Both forms of BCN, ours and the authors', against GroupNorm on one activation.

    Args:
        shape: (N, C, H, W).
        quick: With 8 x 8 cells instead.
        device: Where it is.

    Raises:
        RuntimeError: If the authors' form and ours differ.
    """
    if quick:
        shape = (*shape[:2], 8, 8)
    input = torch.randn(shape, device=device).requires_grad_()
    grad = torch.randn(shape, device=device)
    channels = shape[1]
    norms: dict[str, nn.Module] = {BASELINE: nn.GroupNorm(GROUPS, channels)}
    targets, skipped, reason = [], {}, why_no_compiler()
    for estimate, form in FORMS.items():
        ours, authors = f"ws_det, {form}", f"authors' form, {form} (formula)"
        norms[ours] = BatchChannelNorm2d(channels, GROUPS, estimate=estimate)
        norms[authors] = AuthorsBCN(channels, GROUPS, estimate)
        eager, compiled = LIMITS[estimate]
        targets.append(Target(ours, BASELINE, eager))
        if estimate:
            targets.append(Target(ours, authors, 1 / 3))
        if reason:
            skipped[f"{ours}, compiled"] = reason
        else:
            norm = BatchChannelNorm2d(channels, GROUPS, estimate=estimate)
            norms[f"{ours}, compiled"] = torch.compile(norm)
            targets.append(Target(f"{ours}, compiled", BASELINE, compiled))
    arms = {name: _step(norm.to(device), input, grad) for name, norm in norms.items()}
    for form in FORMS.values():
        expected = arms[f"ws_det, {form}"]()
        for name in arms:
            if form in name and name != f"ws_det, {form}":
                # Float32 sums over up to 60,800 cells in another order.
                check_equal(name, arms[name](), expected, rtol=1e-4)
    counted = {name: operators(arm) for name, arm in arms.items() if "compiled" not in name}
    saved = {
        name: saved_bytes(partial(norm, input), norm.state_dict().values()) / input.nbytes
        for name, norm in norms.items()
    }
    return Comparison(
        f"Normalize {shape}, forward + backward",
        arms,
        baseline=BASELINE,
        targets=targets,
        skipped=skipped,
        counts={"operators": counted, "saved, x input": saved},
    )


def _step(norm: nn.Module, input: Tensor, grad: Tensor) -> Callable[[], list[Tensor]]:
    leaves = [input, *norm.parameters()]

    def step() -> list[Tensor]:
        for leaf in leaves:
            leaf.grad = None
        out = norm(input)
        out.backward(grad)
        return [out, *(leaf.grad for leaf in leaves)]

    return step
