"""Annotation files with oddities (``tests/odd_annotations.py``) through what mends them.

Oracle: the set as it was before. A mended file has its boxes, areas, masks, images and categories;
without those annotations that an oddity is known to cost; the rest is refused in one sentence.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numpy", reason="the images are drawn with numpy")
pytest.importorskip("PIL", reason="the images are written with Pillow")
pytest.importorskip("pycocotools", reason="masks are decoded by it")

import numpy as np
from pycocotools import mask as coco_mask

from tests.odd_annotations import (
    EACH,
    HEIGHT,
    NOT_USED,
    ORDINARY,
    OUTCOMES,
    REFUSED,
    WHOLE,
    WIDTH,
    OddFile,
    Use,
    write_odd_annotations,
)  # fmt: skip
from ws_det.annotations import Mended, mend_annotations
from ws_det.errors import InputError

CASES = 1000
WAY_OUT = "train a detector of boxes"


def mend(file: OddFile, use: Use) -> Mended:
    folder = file.path.parents[1] / file.path.stem.removeprefix("instances_")
    return mend_annotations(
        str(file.path), str(folder) if use.images else None, training=use.training,
        masks=use.masks, without_masks=WAY_OUT,
    )  # fmt: skip


def decoded(shape: Any) -> np.ndarray:
    if isinstance(shape, list):
        shape = coco_mask.merge(coco_mask.frPyObjects(shape, HEIGHT, WIDTH))
    elif isinstance(shape["counts"], list):
        shape = coco_mask.frPyObjects(shape, HEIGHT, WIDTH)
    return coco_mask.decode(shape)


def check_equal(mended: Mended, file: OddFile, use: Use) -> None:
    """What was mended is what was there before the oddities."""
    content, left = mended.content, file.left(use)
    known = [{i["id"]: i["file_name"] for i in c["images"]} for c in (content, file.clean)]
    names = [{i["id"]: i["name"] for i in c["categories"]} for c in (content, file.clean)]
    assert [*known[0].values()] == [*known[1].values()] and {*names[0].values()} == {"box", "bar"}
    if use.images:
        assert all((i["height"], i["width"]) == (HEIGHT, WIDTH) for i in content["images"])
    things = content["annotations"]
    assert len(things) == len(left) and len({t["id"] for t in things}) == len(left)
    assert all(type(thing["id"]) is int for thing in things)
    for thing, clean in zip(things, left):
        assert known[0][thing["image_id"]] == known[1][clean["image_id"]]
        assert names[0][thing["category_id"]] == names[1][clean["category_id"]]
        for key in ("bbox", "area", "iscrowd"):
            assert thing[key] == clean[key], key  # rectangles on whole pixels, so to the bit
        if use.masks:
            assert np.array_equal(decoded(thing["segmentation"]), decoded(clean["segmentation"]))


def check(file: OddFile, use: Use) -> str:
    expected = file.outcome(use)
    try:
        mended = mend(file, use)
    except InputError as error:
        assert str(error).isprintable() and str(file.path) in str(error), error
        assert expected == REFUSED, error
        return REFUSED
    assert expected != REFUSED, mended.notes
    check_equal(mended, file, use)
    not_used = [note for note in mended.notes if "not used" in note]
    assert len(not_used) == (expected == NOT_USED), mended.notes
    assert bool(mended.notes) == (expected != ORDINARY), mended.notes
    assert mended.changed or expected in (ORDINARY, NOT_USED), mended.notes
    return expected


def sweep(root: Path, cases: range) -> dict[str, Counter[str]]:
    """How often each oddity, alone or with others, came to what; and all files together."""
    counts: dict[str, Counter[str]] = {"all": Counter()}
    for seed in cases:
        for part, file in write_odd_annotations(root / str(seed), seed).items():
            for masks in (True, False):
                use = Use(part == "train", masks)
                try:
                    outcome = check(file, use)
                except BaseException as error:
                    raise AssertionError(f"case {seed}, {part}, {use}: {file.oddities}") from error
                for name in ("all", *file.oddities):
                    counts.setdefault(name, Counter())[outcome] += 1
    return counts


def test_random_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = sweep(tmp_path, range(CASES))
    with capsys.disabled():
        print(f"\nodd annotation files, seeds 0 to {CASES - 1}, for a learner and an evaluation:")
        for name, of in counts.items():
            print(f"  {name}: {', '.join(f'{of[k]:,} {k}' for k in OUTCOMES if of[k])}")
    assert counts.keys() >= {*EACH, *WHOLE}
    assert min(counts["all"].values()) > 0.1 * counts["all"].total()
