"""What a user reads of a COCO evaluation: the table, one closing line, a JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ws_det.errors import printable
from ws_det.files import write_text

COLUMNS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
KINDS = {"bbox": "box", "segm": "mask"}
PLURALS = {"bbox": "boxes", "segm": "masks"}
_OTHERS = 3  # numbers in the closing line that are not COCO's


def report_of(
    kinds: Mapping[str, Mapping[str, float]],
    images: int,
    others: Mapping[str, Any] | None = None,
    classes: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """The report of one set, which may have any numbers.

    Args:
        kinds: Some of COCO's twelve numbers, ``AP`` among them, by kind.
        images: How many were evaluated.
        others: What other evaluators found, in any form, by the names that they give it.
        classes: AP by kind and name of the class.

    Returns:
        ``{"bbox": {"AP": ..., ...}, "segm": {...}, "images": N, "classes": ..., "others": ...}``
        without what there is nothing of.
    """
    parts = {"classes": classes, "others": flat_values(others or {})}
    there = {name: part for name, part in parts.items() if part}
    return {**kinds, "images": images, **there} if kinds or there else {}


def together(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The report of one set as it is, and ``{"sets": {name: report}}`` of several."""
    there = {name: dict(report) for name, report in reports.items() if report}
    if len(reports) == 1:
        return next(iter(there.values()), {})
    return {"sets": there} if there else {}


def flat_values(values: Mapping[str, Any], prefix: str = "") -> dict[str, float | str | None]:
    """Any values by one name each, as JSON can hold them; None where a number is not finite."""
    flat: dict[str, float | str | None] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flat_values(value, f"{prefix}{key}/")
            continue
        with suppress(TypeError, ValueError, RuntimeError):  # of arrays of several numbers too
            value = value if isinstance(value, str) else float(value)
        if isinstance(value, float):
            value = value if math.isfinite(value) else None
        flat[f"{prefix}{key}"] = value if isinstance(value, float | None) else str(value)[:200]
    return flat


def sets_of(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The report of each set by a name to begin a line with, which is empty for a single one."""
    if "sets" not in report:
        return {"": report}
    return {f"{printable(name)}: ": one for name, one in report["sets"].items()}


def ap_points(report: Mapping[str, Any]) -> dict[str, float]:
    """``{"box AP": ..., "mask AP": ...}`` as curves show them; of several sets by their names."""
    return {
        f"{name}{word} AP": one[kind]["AP"]
        for name, one in sets_of(report).items()
        for kind, word in KINDS.items()
        if kind in one
    }


def table(report: Mapping[str, Any]) -> str:
    """COCO's numbers of boxes and masks in columns."""
    shown = [one[kind] for one in sets_of(report).values() for kind in KINDS if kind in one]
    columns = [column for column in COLUMNS if any(column in numbers for numbers in shown)]
    rows = [("", *columns)]
    rows += [
        (f"{name}{word}", *(_text(one[kind].get(column)) for column in columns))
        for name, one in sets_of(report).items()
        for kind, word in KINDS.items()
        if kind in one
    ]
    wide = max(7, *(len(row[0]) + 1 for row in rows))
    return "\n".join(row[0].rjust(wide) + "".join(f"{c:>7}" for c in row[1:]) for row in rows)


def _text(value: float | str | None) -> str:
    return f"{value:.3f}" if isinstance(value, float | int) else printable(str(value or "-"))


def class_table(classes: Mapping[str, Mapping[str, float]]) -> str:
    """The AP of each class, a row each; -1 for a class without objects.

    Args:
        classes: AP by kind and name.
    """
    kinds = [kind for kind in KINDS if kind in classes]
    names = {name: printable(name) for name in classes[kinds[0]]}
    wide = max(len(name) for name in [*names.values(), "AP"])
    rows = [("AP", *(KINDS[kind] for kind in kinds))]
    for name, text in names.items():
        rows.append((text, *(f"{classes[kind][name]:.3f}" for kind in kinds)))
    return "\n".join(row[0].ljust(wide) + "".join(f"{c:>8}" for c in row[1:]) for row in rows)


def closing_line(report: Mapping[str, Any]) -> str:
    """``box AP 0.512, mask AP 0.556 (50 images)``; other numbers follow, the first few."""
    lines = []
    for name, one in sets_of(report).items():
        parts = [f"{KINDS[kind]} AP {one[kind]['AP']:.3f}" for kind in KINDS if kind in one]
        others = [f"{printable(key)} {_text(v)}" for key, v in one.get("others", {}).items()]
        parts += [*others[:_OTHERS], *["..."] * (len(others) > _OTHERS)]
        if parts:
            lines.append(f"{name}{', '.join(parts)} ({one['images']} images)")
    return "; ".join(lines) or "no COCO evaluation ran"


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write a complete file or none, see ``files.replacing``."""
    write_text(path, json.dumps(content, indent=indent) + "\n")
