"""Interleaved timing. Oracle: medians, quartiles and ratios by hand, on a clock that is a list."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch

from ws_det.bench import rounds
from ws_det.bench.rounds import WARMUP, Comparison, Target, Timing, judge, measure

# Seconds of each call, round by round: two rounds of warm-up, then four that count.
SLOW, FAST = [90, 70, 4, 8, 6, 2], [50, 30, 1, 1, 3, 5]


def comparison(calls: list[str], **options) -> Comparison:
    arms = {name: lambda name=name: calls.append(name) for name in ("slow", "fast")}
    return Comparison("wait", arms, baseline="slow", **options)


def clock_of(seconds: list[float]):
    """Ticks at the start, then before and after each call, with no time in between."""
    ends = list(accumulate(seconds))
    ticks = iter([0, *(tick for end, s in zip(ends, seconds) for tick in (end - s, end))])
    return lambda: next(ticks)


def test_rounds_are_interleaved_and_warm_up_does_not_count() -> None:
    calls: list[str] = []
    seconds = [s for pair in zip(SLOW, FAST) for s in pair]
    timings = measure(comparison(calls), 4, clock_of(seconds), say=lambda line: None)
    assert calls == ["slow", "fast"] * (WARMUP + 4)
    # 2 4 6 8: median 5, quartiles at 3.5 and 6.5; 1 1 3 5: median 2, quartiles at 1 and 3.5.
    assert timings == {"slow": Timing(5, 3.5, 6.5, 1.0), "fast": Timing(2, 1, 3.5, 0.4)}


def test_a_single_round_has_no_spread() -> None:
    seconds = [s for pair in zip(SLOW[:3], FAST[:3]) for s in pair]
    timings = measure(comparison([]), 1, clock_of(seconds), say=lambda line: None)
    assert timings["slow"] == Timing(4, 4, 4, 1.0)


@pytest.mark.parametrize("at_most, reached", [(0.39, False), (0.4, True)])
def test_a_target_is_a_ratio_of_medians(at_most: float, reached: bool) -> None:
    timings = {"slow": Timing(5, 0, 0, 1.0), "fast": Timing(2, 0, 0, 0.4)}
    assert judge(timings, Target("fast", "slow", at_most)) == (0.4, reached)


def test_long_runs_say_how_far_they_are() -> None:
    """By hand: 7 s a round. The third ends at 21 s, with 2 rounds of 7 s left, the fourth at 28."""
    said: list[str] = []
    measure(comparison([]), 3, clock_of([4, 3] * 5), said.append)
    # At most every ten seconds: after 11, 21 and 32 s.
    assert said == [
        "wait: warming up",
        "wait: round 1/3, about 0:00:14 left",
        "wait: round 3/3, about 0:00:03 left",
    ]


def test_what_computes_something_else_is_not_timed() -> None:
    expected = [torch.tensor([3.0, 4.0])]
    rounds.check_equal("peer", [torch.tensor([3.0, 4.005])], expected, rtol=1.01e-3)
    with pytest.raises(RuntimeError, match=r"peer does not compute .* 1\.0e-03 off"):
        rounds.check_equal("peer", [torch.tensor([3.0, 4.005])], expected, rtol=0.99e-3)
    with pytest.raises(RuntimeError, match="nan off"):
        rounds.check_equal("peer", [torch.tensor([3.0, torch.nan])], expected, rtol=1)


def test_a_missing_compiler_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function):
        raise OSError("no C++")

    monkeypatch.setattr(torch, "compile", broken)
    assert rounds.why_no_compiler() == "torch.compile does not work here (OSError)"
