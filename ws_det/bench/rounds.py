"""Time several ways to do the same in turn, so that a busy machine is busy for all of them."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median, quantiles

import torch
from torch import Tensor

from ws_det.functional import standardize_weight

WARMUP = 2  # the first call compiles, the second has its memory from the first
SAY_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class Target:
    """What the ratio of two medians is to be.

    Attributes:
        arm: What is judged.
        versus: What it is compared with.
        at_most: Largest ratio of the two medians that reaches the target.
    """

    arm: str
    versus: str
    at_most: float


@dataclass
class Comparison:
    """Arms that are timed in turn.

    Attributes:
        title: What they all do.
        arms: By name, one call of each.
        baseline: The arm that is 1.00.
        targets: Those of arms that were skipped are left out.
        skipped: Arms that cannot run here, with the reason.
        counts: More columns, by heading and arm: what was counted, not timed. Arms may lack.
        images: How many a call takes, for a column of images per second; 0 for none.
        warmup: Rounds before those that count.
    """

    title: str
    arms: dict[str, Callable[[], object]]
    baseline: str
    targets: Sequence[Target] = ()
    skipped: dict[str, str] = field(default_factory=dict)
    counts: dict[str, dict[str, float]] = field(default_factory=dict)
    images: int = 0
    warmup: int = WARMUP


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and quartiles of the rounds, and the ratio to the baseline."""

    median: float
    lower: float
    upper: float
    ratio: float


def measure(
    comparison: Comparison,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> dict[str, Timing]:
    """Call every arm once a round, each round in another order, and keep the time of each call.

    Args:
        comparison: What to time.
        repeats: Rounds that count, after those of ``warmup``.
        clock: Seconds.
        say: Told how far it is, at most every ten seconds.

    Returns:
        A timing for each arm.
    """
    seconds: dict[str, list[float]] = {name: [] for name in comparison.arms}
    spoken = clock()
    for number, name in _calls(comparison, comparison.warmup + repeats):
        before = clock()
        comparison.arms[name]()
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # a kernel that was launched is not yet one that ran
        after = clock()
        seconds[name].append(after - before)
        if after - spoken >= SAY_EVERY:
            say(f"{comparison.title}: {_progress(seconds, number, repeats, comparison.warmup)}")
            spoken = after
    return summarize(
        {name: values[comparison.warmup :] for name, values in seconds.items()}, comparison
    )


def summarize(seconds: dict[str, list[float]], comparison: Comparison) -> dict[str, Timing]:
    """Medians, quartiles and ratios of the seconds that were measured."""
    base = median(seconds[comparison.baseline])
    timings = {}
    for name, values in seconds.items():
        lower, _, upper = quantiles(values, n=4, method="inclusive") if values[1:] else values * 3
        middle = median(values)
        timings[name] = Timing(middle, lower, upper, middle / base)
    return timings


def judge(timings: dict[str, Timing], target: Target) -> tuple[float, bool]:
    """The ratio that a target is about, and whether it is reached."""
    ratio = timings[target.arm].median / timings[target.versus].median
    return ratio, ratio <= target.at_most


def check_equal(name: str, got: Sequence[Tensor], expected: Sequence[Tensor], rtol: float) -> None:
    """Refuse to time an arm that computes something else.

    Args:
        name: The arm.
        got: Its tensors.
        expected: Those of ws_det.
        rtol: Largest norm of a difference, relative to the norm of what is expected.

    Raises:
        RuntimeError: If they differ.
    """
    for ours, theirs in zip(expected, got, strict=True):
        error = ((theirs - ours).norm() / ours.norm().clamp_min(1e-12)).item()
        if not error <= rtol:
            raise RuntimeError(f"{name} does not compute what ws_det does: it is {error:.1e} off")


def why_no_compiler() -> str | None:
    """Why torch.compile does not work here, asked with a kernel, or None if it does."""
    kernel = torch.randn(2, 2, 1, 1, requires_grad=True)
    try:
        torch.compile(standardize_weight)(kernel).sum().backward()
    except Exception as error:  # whatever this torch or the tool chain of this machine lacks
        return f"torch.compile does not work here ({type(error).__name__})"
    return None


def _calls(comparison: Comparison, rounds: int) -> Iterator[tuple[int, str]]:
    # Shuffled: in one order for all rounds an arm would find the caches and the free memory always
    # as the same other arm leaves them, and what follows the slowest pays for it.
    order, names = random.Random(0), list(comparison.arms)
    for number in range(rounds):
        order.shuffle(names)
        for name in names:
            yield number, name


def _progress(seconds: dict[str, list[float]], number: int, repeats: int, warmup: int) -> str:
    if number < warmup:
        return "warming up"
    # Of the arms that ran: without a warm-up the first round ends with times that nobody knows.
    known = [values for values in seconds.values() if values]
    left = sum((warmup + repeats - len(values)) * values[-1] for values in known)
    return f"round {number - warmup + 1}/{repeats}, about {timedelta(seconds=round(left))} left"
