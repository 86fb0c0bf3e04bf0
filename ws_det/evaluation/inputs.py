"""Read truth and predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ws_det.annotations import Mended, mend_content
from ws_det.coco import read_annotations
from ws_det.errors import InputError, first_line

_EXISTING = "give the path of an existing file"
_BOXES = "evaluate boxes alone, with --kinds bbox, or give it one"


def read_truth(
    truth: str | Path | Mapping[str, Any], masks: bool = False, needed: bool = False
) -> Mended:
    """COCO annotations from a file, or what was read from one, mended for an evaluation.

    Args:
        truth: The path, or the content.
        masks: Whether they are evaluated by their masks.
        needed: Whether there has to be something to evaluate by.

    Raises:
        InputError: If they are missing, damaged, not in COCO's format, or cannot be mended.
    """
    is_file = isinstance(truth, (str, Path))
    content = read_annotations(str(truth), _EXISTING) if is_file else truth
    name = str(truth) if is_file else "the truth"
    return mend_content(content, name, masks=masks, without_masks=_BOXES, needed=needed)


def read_predictions(predictions: str | Path | Sequence[Any]) -> list[dict[str, Any]]:
    """COCO results from a file, or as they are.

    Raises:
        InputError: If they are missing, damaged, or no list.
    """
    found, name = predictions, "the predictions"
    if isinstance(predictions, (str, Path)):
        name = f"the predictions {predictions}"
        if not Path(predictions).is_file():
            raise InputError(f"{name} do not exist: {_EXISTING}")
        try:
            found = json.loads(Path(predictions).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"{name} are truncated or no JSON ({first_line(error)}): write them again"
            ) from None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise InputError(f"{name} are no list of detections: give results in COCO's format")
    return found
