"""Judge a claim by the numbers of several seeds, by one rule for all claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

SHOWN, NOT_SHOWN, CONTRADICTED = "shown", "not shown at this size", "contradicted"


def verdict(
    claim: str, higher: Sequence[float], lower: Sequence[float], unit: str = ""
) -> dict[str, Any]:
    """Judge the claim that one arm gives larger numbers than another.

    Shown means that every seed of the one is above every seed of the other, contradicted that
    every one is below. With three seeds each, chance alone gives either in one case of 20.

    Args:
        claim: What is claimed, a sentence.
        higher: A number for each seed of the arm that is claimed to have the larger ones.
        lower: Those of the other arm.
        unit: Written behind the figures.

    Returns:
        ``claim``, ``verdict`` and ``figures``.

    Raises:
        ValueError: If an arm has no number.
    """
    if not higher or not lower:
        raise ValueError(f"no numbers to judge the claim {claim!r} by")
    if min(higher) > max(lower):
        word = SHOWN
    elif max(higher) < min(lower):
        word = CONTRADICTED
    else:
        word = NOT_SHOWN
    figures = " against ".join(figure(values, unit) for values in (higher, lower))
    return {"claim": claim, "verdict": word, "figures": figures}


def figure(values: Sequence[float], unit: str = "") -> str:
    """Mean and sample standard deviation, to four digits: ``0.5123 ± 0.0210 (3 seeds)``."""
    middle = mean_spread(values)
    unit = f" {unit}" if unit else ""
    if len(values) == 1:
        return f"{middle['mean']:.4g}{unit} (1 seed)"
    return f"{middle['mean']:.4g} ± {middle['std']:.2g}{unit} ({len(values)} seeds)"


def mean_spread(values: Sequence[float]) -> dict[str, Any]:
    """``mean``, ``std`` (sample standard deviation, 0 for one value) and ``values``."""
    std = stdev(values) if len(values) > 1 else 0.0
    return {"mean": fmean(values), "std": std, "values": list(values)}


def cell(numbers: Mapping[str, Any], digits: int = 3) -> str:
    """What ``mean_spread`` gives, for a table: ``mean ± std``, or the one value."""
    text = f"{numbers['mean']:.{digits}f}"
    return f"{text} ± {numbers['std']:.{digits}f}" if len(numbers["values"]) > 1 else text


def best_rate(scores: Mapping[float, float]) -> float:
    """The learning rate with the highest score, the smaller one of equals.

    Args:
        scores: By learning rate; larger is better.
    """
    return max(sorted(scores), key=lambda rate: scores[rate])
