"""Interleaved timing. Oracle: medians, quartiles and ratios by hand, on a clock that arms move."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from ws_det.bench import rounds
from ws_det.bench.rounds import WARMUP, Comparison, Target, Timing, judge, measure

# Seconds of each call: two rounds of warm-up, then four that count.
SECONDS = {"slow": [90, 70, 4, 8, 6, 2], "fast": [50, 30, 1, 1, 3, 5]}


class Waiting:
    """Arms that do nothing but move the clock, by the next of their seconds."""

    def __init__(self, seconds: dict[str, list[float]]) -> None:
        self.now, self.calls, self._seconds = 0.0, [], {n: iter(s) for n, s in seconds.items()}

    def comparison(self, **options) -> Comparison:
        arms = {name: lambda name=name: self._call(name) for name in self._seconds}
        return Comparison("wait", arms, baseline=next(iter(arms)), **options)

    def _call(self, name: str) -> None:
        self.now += next(self._seconds[name])
        self.calls.append(name)

    def clock(self) -> float:
        return self.now


def test_rounds_are_interleaved_and_warm_up_does_not_count() -> None:
    waiting = Waiting(SECONDS)
    timings = measure(waiting.comparison(), 4, waiting.clock, say=lambda line: None)
    assert len(waiting.calls) == 2 * (WARMUP + 4)
    assert all(set(pair) == set(SECONDS) for pair in zip(waiting.calls[::2], waiting.calls[1::2]))
    # 2 4 6 8: median 5, quartiles at 3.5 and 6.5; 1 1 3 5: median 2, quartiles at 1 and 3.5.
    assert timings == {"slow": Timing(5, 3.5, 6.5, 1.0), "fast": Timing(2, 1, 3.5, 0.4)}


def test_no_arm_always_follows_the_same_other_arm() -> None:
    """Oracle: by chance 1/3 within a round and 1/9 between two: 89 of 200, deviation 8."""
    waiting = Waiting({name: [1.0] * 200 for name in "abc"})
    measure(waiting.comparison(warmup=0), 200, waiting.clock, say=lambda line: None)
    follows = Counter(zip(waiting.calls, waiting.calls[1:]))
    assert all(follows[one, other] > 50 for one in "abc" for other in "abc" if one != other)


def test_a_single_round_has_no_spread() -> None:
    waiting = Waiting({name: seconds[:3] for name, seconds in SECONDS.items()})
    timings = measure(waiting.comparison(), 1, waiting.clock, say=lambda line: None)
    assert timings["slow"] == Timing(4, 4, 4, 1.0)


@pytest.mark.parametrize("at_most, reached", [(0.39, False), (0.4, True)])
def test_a_target_is_a_ratio_of_medians(at_most: float, reached: bool) -> None:
    timings = {"slow": Timing(5, 0, 0, 1.0), "fast": Timing(2, 0, 0, 0.4)}
    assert judge(timings, Target("fast", "slow", at_most)) == (0.4, reached)


def test_long_runs_say_how_far_they_are() -> None:
    """By hand: 3.5 s a call, two warm-ups of two calls. At most every ten seconds is said."""
    said: list[str] = []
    waiting = Waiting({"one": [3.5] * 5, "two": [3.5] * 5})
    measure(waiting.comparison(), 3, waiting.clock, said.append)
    # After 10.5 s; 21 s, with four calls left; 31.5 s, with one.
    assert said == [
        "wait: warming up",
        "wait: round 1/3, about 0:00:14 left",
        "wait: round 3/3, about 0:00:04 left",
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
