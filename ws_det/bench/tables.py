"""Show what was measured: Markdown, which reads well as it is, JSON and a bar chart."""

from __future__ import annotations

from typing import Any

from ws_det.bench.rounds import Comparison, Timing, judge
from ws_det.markdown import table

Outcome = tuple[Comparison, dict[str, Timing]]


def markdown(comparison: Comparison, timings: dict[str, Timing]) -> str:
    """The arms with their times, then the targets with what was reached."""
    heads = ["", "median ms", "quartiles ms", f"x {comparison.baseline}"]
    heads += ["images/s"] * bool(comparison.images) + list(comparison.counts)
    rows = []
    for name, timing in timings.items():
        spread = f"{_ms(timing.lower)} - {_ms(timing.upper)}"
        row = [name, _ms(timing.median), spread, _ratio(timing.ratio)]
        if comparison.images:
            row.append(f"{comparison.images / timing.median:.3g}")
        counted = [column.get(name) for column in comparison.counts.values()]
        row += ["" if count is None else f"{count:.4g}" for count in counted]
        rows.append(row)
    parts = [f"### {comparison.title}", table(heads, rows)]
    if comparison.targets:
        judged = []
        for target in comparison.targets:
            ratio, reached = judge(timings, target)
            words = f"{target.arm} at most {_ratio(target.at_most)} x {target.versus}"
            judged.append([words, _ratio(ratio), "yes" if reached else "no"])
        parts.append(table(["target", "ratio", "reached"], judged))
    parts += [f"Skipped {name}: {reason}." for name, reason in comparison.skipped.items()]
    return "\n\n".join(parts)


def as_json(comparison: Comparison, timings: dict[str, Timing]) -> dict[str, Any]:
    """The same numbers, unrounded."""
    arms = {}
    for name, timing in timings.items():
        arms[name] = {
            "median_seconds": timing.median,
            "lower_quartile_seconds": timing.lower,
            "upper_quartile_seconds": timing.upper,
            "ratio": timing.ratio,
        }
        columns = comparison.counts.items()
        arms[name] |= {head: column[name] for head, column in columns if name in column}
        if comparison.images:
            arms[name]["images_per_second"] = comparison.images / timing.median
    targets = []
    for target in comparison.targets:
        ratio, reached = judge(timings, target)
        targets.append({**vars(target), "ratio": ratio, "reached": reached})
    return {
        "title": comparison.title,
        "baseline": comparison.baseline,
        "arms": arms,
        "targets": targets,
        "skipped": comparison.skipped,
    }


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.4g}" if seconds < 10 else f"{1000 * seconds:.0f}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.4f}"
