"""Annotation files with oddities (``tests/odd_annotations.py``) through what mends them.

Oracle: the set as it was before. A mended file has its boxes, areas, masks, images and categories;
without those annotations that an oddity is known to cost; the rest is refused in one sentence.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numpy", reason="the images are drawn with numpy")
pytest.importorskip("PIL", reason="the images are written with Pillow")
pytest.importorskip("pycocotools", reason="masks are decoded by it")

import numpy as np
from pycocotools import mask as coco_mask

from tests.coco_cases import reference
from tests.odd_annotations import (
    EACH,
    HEIGHT,
    MENDED,
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
from tools import evaluate as tool
from ws_det.annotations import Mended, mend_annotations
from ws_det.errors import InputError

CASES, EVALUATIONS = 1000, 150
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
    assert len(content["images"]) == len(known[1]) and len(content["categories"]) == 2
    if "all ids as text" in file.oddities:
        assert all(isinstance(key, str) for names_ in (known[0], names[0]) for key in names_)
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


# --- what tools/evaluate.py makes of them ---------------------------------------------------------


def predictions(file: OddFile, chance: random.Random) -> list[dict[str, Any]]:
    """Detections near the objects of the clean file, with its ids."""
    found = []
    for thing in file.clean["annotations"]:
        x, y, w, h = (max(1, side + chance.choice((0, 0, 1, 2))) for side in thing["bbox"])
        (rle,) = coco_mask.frPyObjects([[x, y, x + w, y, x + w, y + h, x, y + h]], HEIGHT, WIDTH)
        mask = {"size": rle["size"], "counts": rle["counts"].decode()}
        ids = {key: thing[key] for key in ("image_id", "category_id")}
        found.append(
            {**ids, "bbox": [x, y, w, h], "score": chance.random(), "segmentation": mask}
        )
    return found


def evaluated(file: OddFile, found: Path, chance: random.Random, kinds: list[str]) -> Any:
    """Numbers by the tool, None where it refuses."""
    out = found.with_name("numbers.json")
    flags = ["--kinds", *kinds, "--backend", chance.choice(("auto", "pycocotools"))]
    try:
        tool.main([str(found), str(file.path), "--out", str(out), *flags])
    except InputError as error:
        assert str(file.path) in str(error), error
        return None
    return json.loads(out.read_text())


def evaluate_one(seed: int, root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    file, chance = write_odd_annotations(root / str(seed), seed)["val"], random.Random(seed)
    if "swapped sizes" in file.oddities:
        return "left out"  # which only the images tell
    found, path = predictions(file, chance), root / "found.json"
    text = [{**f, "image_id": str(f["image_id"]), "score": str(f["score"])} for f in found]
    path.write_text(json.dumps(chance.choice((found, found, text))))
    kinds = chance.choice((["bbox"], ["segm"], ["bbox", "segm"]))
    use = Use(False, "segm" in kinds, images=False)
    outcome, numbers = file.outcome(use), evaluated(file, path, chance, kinds)
    assert (numbers is None) == (outcome == REFUSED), outcome
    truth = {**file.clean, "annotations": file.left(use)}
    for kind in kinds if numbers else ():
        expected = reference(truth, found, kind).stats.tolist()
        # sums in another order
        assert list(numbers[kind].values()) == pytest.approx(expected, abs=1e-9), kind
    warned = capsys.readouterr().err.count("warning: ")
    # Of an encoding there is nothing to tell: Python reads it.
    of = [of(use) for of, name in zip(file.outcomes, file.oddities) if not name.startswith("utf")]
    assert warned == (REFUSED not in of and not {MENDED, NOT_USED}.isdisjoint(of)), outcome
    return outcome


def test_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The numbers are pycocotools' own on the clean file without what is lost, or a sentence."""
    outcomes = Counter()
    for seed in range(EVALUATIONS):
        try:
            outcomes[evaluate_one(seed, tmp_path, capsys)] += 1
        except BaseException as error:
            raise AssertionError(f"case {seed}: {(tmp_path / str(seed))}") from error
    with capsys.disabled():
        print(f"\nodd annotation files in tools/evaluate.py: {dict(outcomes)}")
    assert min(outcomes[name] for name in (ORDINARY, MENDED, REFUSED)) > 0.1 * EVALUATIONS


def test_random_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = sweep(tmp_path, range(CASES))
    with capsys.disabled():
        print(f"\nodd annotation files, seeds 0 to {CASES - 1}, for a learner and an evaluation:")
        for name, of in counts.items():
            print(f"  {name}: {', '.join(f'{of[k]:,} {k}' for k in OUTCOMES if of[k])}")
    assert counts.keys() >= {*EACH, *WHOLE, "all ids as text"}
    assert min(counts["all"].values()) > 0.1 * counts["all"].total()
