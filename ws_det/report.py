"""What a user reads of a COCO evaluation: the table, one closing line, a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
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


def table(report: Mapping[str, Any]) -> str:
    """The twelve numbers of boxes and masks in columns."""
    rows = [("", *COLUMNS)]
    rows += [
        (word, *(f"{report[kind][column]:.3f}" for column in COLUMNS))
        for kind, word in KINDS.items()
        if kind in report
    ]
    return "\n".join("".join(f"{cell:>7}" for cell in row) for row in rows)


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
    """``box AP 0.512, mask AP 0.556 (50 images)``."""
    evaluated = [kind for kind in KINDS if kind in report]
    parts = [f"{KINDS[kind]} AP {report[kind]['AP']:.3f}" for kind in evaluated]
    return f"{', '.join(parts)} ({report['images']} images)" if parts else "no COCO evaluation ran"


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write a complete file or none, see ``files.replacing``."""
    write_text(path, json.dumps(content, indent=indent) + "\n")
