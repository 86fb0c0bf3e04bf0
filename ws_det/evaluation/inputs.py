"""Read truth and predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ws_det.coco import check_annotations, read_annotations
from ws_det.errors import InputError, first_line


def read_truth(truth: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """COCO annotations from a file, or as they are.

    Raises:
        InputError: If they are missing, damaged, or not in COCO's format.
    """
    if isinstance(truth, (str, Path)):
        return read_annotations(str(truth), "give the path of an existing file")
    check_annotations(truth, "the truth")
    return dict(truth)


def read_predictions(predictions: str | Path | Sequence[Any]) -> list[dict[str, Any]]:
    """COCO results from a file, or as they are.

    Raises:
        InputError: If they are missing, damaged, or no list.
    """
    found, name = predictions, "the predictions"
    if isinstance(predictions, (str, Path)):
        name = f"the predictions {predictions}"
        if not Path(predictions).is_file():
            raise InputError(f"{name} do not exist: give the path of an existing file")
        try:
            found = json.loads(Path(predictions).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"{name} are truncated or no JSON ({first_line(error)}): write them again"
            ) from None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise InputError(f"{name} are no list of detections: give results in COCO's format")
    return found
