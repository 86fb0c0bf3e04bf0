"""What a user reads of the channel statistics of a detector: parts, the worst channels, JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch

from ws_det.diagnostics import (
    NEARLY_DEAD,
    ChannelStatistics,
    share_nearly_dead,
    worst_channels,
)
from ws_det.evaluation.progress import Progress

T = TypeVar("T")


def counted(images: Iterable[T], total: int) -> Iterator[T]:
    """The images, with a line at times that says how long the rest takes."""
    progress = Progress(f"measuring {total} images")
    for image in images:
        progress.step(total)
        yield image


def part_of(layer: str) -> str:
    """The part of a detector that a layer is in: a stage of the backbone, the neck, a head."""
    first, *rest = layer.split(".")
    if first in ("roi_head", "roi_heads") and len(rest) > 1:
        return f"{first}.{rest[0]}"
    if first != "backbone":
        return first
    if rest[0] == "bottom_up":  # Detectron2 has its FPN in the backbone, and below it the network
        rest = rest[1:]
    elif re.match("fpn_|top_block", rest[0]):
        return "neck"
    if rest[0] == "stages":
        return f"backbone.stages.{rest[1]}"
    # layer1 and res2, but no bn1
    staged = len(rest) > 2 and re.fullmatch(r"[a-z_]+\d+", rest[0])
    return f"backbone.{rest[0]}" if staged else "backbone.stem"


def summarize(statistics: Mapping[str, ChannelStatistics]) -> dict[str, Any]:
    """All of it, for JSON: an infinite number is None.

    Returns:
        ``nearly_dead_below``: the share of cells that makes a channel nearly dead; ``parts``: each
        part's ``layers``, ``channels``, ``nearly_dead`` (their share) and ``normalized_mean`` (the
        median of its absolute), the same of all as ``all``; ``worst``: the ten channels that are
        active least; ``layers``: mean, deviation and active share of every channel, by layer.
    """
    parts: dict[str, dict[str, ChannelStatistics]] = {}
    for layer, own in statistics.items():
        parts.setdefault(part_of(layer), {})[layer] = own
    worst = [channel._asdict() for channel in worst_channels(statistics)]
    for channel in worst:
        channel["normalized_mean"] = _finite(channel["normalized_mean"])
    return {
        "nearly_dead_below": NEARLY_DEAD,
        "parts": {part: _numbers(own) for part, own in parts.items()},
        "all": _numbers(statistics),
        "worst": worst,
        "layers": {
            layer: {
                "part": part_of(layer),
                "mean": own.mean.tolist(),
                "std": own.std.tolist(),
                "active": own.active.tolist(),
            }
            for layer, own in statistics.items()
        },
    }


def table(summary: Mapping[str, Any]) -> str:
    """The parts and the worst channels in columns."""
    rows = [("part", "layers", "channels", "nearly dead", "median |mean / std|")]
    rows += [_row(part, numbers) for part, numbers in summary["parts"].items()]
    rows += [_row("all", summary["all"])]
    worst = [("the channels active least", "channel", "active", "mean / std")]
    worst += [
        (c["layer"], str(c["channel"]), f"{c['active']:.2%}", _written(c["normalized_mean"]))
        for c in summary["worst"]
    ]
    return f"{_aligned(rows)}\n\n{_aligned(worst)}"


def _numbers(statistics: Mapping[str, ChannelStatistics]) -> dict[str, Any]:
    normalized = torch.cat([own.normalized_mean for own in statistics.values()]).abs()
    return {
        "layers": len(statistics),
        "channels": len(normalized),
        "nearly_dead": share_nearly_dead(statistics),
        "normalized_mean": _finite(normalized.quantile(0.5).item()),
    }


def _row(part: str, numbers: Mapping[str, Any]) -> tuple[str, ...]:
    dead, normalized = f"{numbers['nearly_dead']:.1%}", _written(numbers["normalized_mean"])
    return part, str(numbers["layers"]), str(numbers["channels"]), dead, normalized


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _written(number: float | None) -> str:
    return "constant" if number is None else f"{number:.2f}"


def _aligned(rows: list[tuple[str, ...]]) -> str:
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(wide[0]), *(c.rjust(w) for c, w in zip(row[1:], wide[1:]))])
        for row in rows
    )
