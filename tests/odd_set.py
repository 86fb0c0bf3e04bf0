"""A set of the images that break trainings: nothing on them, crowds alone, one-pixel boxes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import write_set

KINDS = ("empty", "crowd", "pixel", "plain")


def write_odd_set(root: Path, kinds: tuple[str, ...]) -> Path:
    """A training image of each kind, in this order, and two ordinary ones to evaluate on."""
    empty = [i for i, kind in enumerate(kinds) if kind == "empty"]
    write_set(root, train=len(kinds), val=2, empty=empty)
    path = root / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        kind = kinds[annotation["image_id"] - 1]
        x, y = annotation["bbox"][:2]
        if kind == "crowd":  # run lengths over the columns of a 64 x 96 image, all of it a crowd
            annotation.update(
                iscrowd=1, segmentation={"size": [64, 96], "counts": [0, 64 * 96]},
                bbox=[0, 0, 96, 64], area=64 * 96,
            )  # fmt: skip
        elif kind == "pixel":
            corners = [x, y, x + 1, y, x + 1, y + 1, x, y + 1]
            annotation.update(bbox=[x, y, 1, 1], area=1, segmentation=[corners])
    path.write_text(json.dumps(content))
    return root
