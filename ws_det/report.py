"""What a user reads of a COCO evaluation: the table, one closing line, a JSON file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLUMNS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
KINDS = {"bbox": "box", "segm": "mask"}


def table(report: Mapping[str, Any]) -> str:
    """The twelve numbers of boxes and masks in columns."""
    rows = [("", *COLUMNS)]
    rows += [
        (word, *(f"{report[kind][column]:.3f}" for column in COLUMNS))
        for kind, word in KINDS.items()
        if kind in report
    ]
    return "\n".join("".join(f"{cell:>7}" for cell in row) for row in rows)


def closing_line(report: Mapping[str, Any]) -> str:
    """``box AP 0.512, mask AP 0.556 (50 images)``."""
    evaluated = [kind for kind in KINDS if kind in report]
    parts = [f"{KINDS[kind]} AP {report[kind]['AP']:.3f}" for kind in evaluated]
    return f"{', '.join(parts)} ({report['images']} images)" if parts else "no COCO evaluation ran"


def write_json(path: Path, content: Any) -> None:
    """Write a whole file or none: beside, then renamed."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(beside, path)
