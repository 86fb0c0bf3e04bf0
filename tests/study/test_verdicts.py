"""Verdicts, spreads and the choice of a rate. Oracle: values worked out by hand."""

from __future__ import annotations

from itertools import combinations

import pytest

from ws_det.study.verdicts import best_rate, cell, figure, mean_spread, verdict


@pytest.mark.parametrize(
    ("higher", "lower", "word"),
    [
        ([0.5, 0.6], [0.3, 0.4], "shown"),
        ([0.3, 0.4], [0.5, 0.6], "contradicted"),
        ([0.3, 0.6], [0.4, 0.5], "not shown at this size"),
        ([0.4, 0.6], [0.3, 0.4], "not shown at this size"),  # a tie is not above
        ([0.3, 0.4], [0.4, 0.6], "not shown at this size"),
        ([0.5], [0.4], "shown"),
    ],
)
def test_every_seed_counts(higher: list[float], lower: list[float], word: str) -> None:
    judged = verdict("one is above", higher, lower, "AP")
    assert judged["verdict"] == word and judged["claim"] == "one is above"
    assert judged["figures"] == f"{figure(higher, 'AP')} against {figure(lower, 'AP')}"


@pytest.mark.parametrize(("seeds", "one_in"), [(2, 6), (3, 20)])
def test_chance_is_what_the_page_says(seeds: int, one_in: int) -> None:
    """Of all ways to deal equal arms their numbers, count those that would be shown."""
    numbers = range(2 * seeds)
    words = []
    for hand in combinations(numbers, seeds):
        rest = [n for n in numbers if n not in hand]
        words.append(verdict("", hand, rest)["verdict"])
    assert len(words) == one_in * words.count("shown") == one_in


def test_an_arm_without_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="no numbers to judge the claim 'that'"):
        verdict("that", [1.0], [])


def test_figures() -> None:
    assert mean_spread([1.0, 2.0, 3.0]) == {"mean": 2.0, "std": 1.0, "values": [1.0, 2.0, 3.0]}
    assert mean_spread([4.0])["std"] == 0.0
    assert figure([1.0, 2.0, 3.0], "AP") == "2 ± 1 AP (3 seeds)"
    assert figure([0.123456]) == "0.1235 (1 seed)"
    assert cell(mean_spread([1.0, 2.0, 3.0])) == "2.000 ± 1.000"
    assert cell(mean_spread([0.25]), 2) == "0.25"


def test_best_rate_takes_the_smaller_of_equals() -> None:
    assert best_rate({0.1: 0.5, 0.01: 0.7, 0.001: 0.7}) == 0.001
