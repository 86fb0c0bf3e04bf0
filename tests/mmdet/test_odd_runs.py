"""Random odd annotation files (``tests/odd_annotations.py``) through whole runs of MMDetection.

Oracle: the set as it was before it was made odd. What the training's data set yields, and what the
evaluator judges by, has its boxes, classes and masks, without what an oddity is known to cost; the
rest is refused in one sentence, soon, with nothing left behind.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.conftest import write_set
from tests.mmdet.odd_runs import BOXES, LookHook, new_run, plain_configs, tree, write_config
from tests.odd_annotations import HEIGHT, WIDTH, OddFile, Use, write_odd_annotations
from ws_det.errors import InputError
from ws_det.mmdet import runner

SECONDS = 5.0  # of this process, after the imports; a refused run starts no other


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[bool, Path]]:
    """A detector with masks and one without."""
    root = tmp_path_factory.mktemp("configs")
    coco = write_set(root / "set", 1, 1)
    logging.disable(logging.WARNING)
    with plain_configs():
        yield {
            True: write_config(root / "masks.py", coco, {}),
            False: write_config(root / "boxes.py", coco, BOXES),
        }
    logging.disable(logging.NOTSET)


def decoded(shape: Any) -> np.ndarray:
    if isinstance(shape, list):
        shape = coco_mask.merge(coco_mask.frPyObjects(shape, HEIGHT, WIDTH))
    elif isinstance(shape["counts"], list):
        shape = coco_mask.frPyObjects(shape, HEIGHT, WIDTH)
    return coco_mask.decode(shape)


def learned(file: OddFile, masks: bool) -> dict[str, list[Any]]:
    """What a model is to learn from: label, corners and mask of each object of each image."""
    names = {image["id"]: image["file_name"] for image in file.clean["images"]}
    objects: dict[str, list[Any]] = {name: [] for name in names.values()}
    for thing in file.left(Use(True, masks)):
        x, y, w, h = thing["bbox"]
        inside = x < WIDTH and y < HEIGHT and x + w > 0 and y + h > 0 and w >= 1 and h >= 1
        if inside and not thing["iscrowd"]:
            label = {3: 0, 7: 1}[thing["category_id"]]
            corners = [max(x, 0), max(y, 0), min(x + w, WIDTH), min(y + h, HEIGHT)]
            mask = decoded(thing["segmentation"]) if masks else None
            objects[names[thing["image_id"]]].append((label, corners, mask))
    return objects


def check_equal(found: dict[str, list[Any]], expected: dict[str, list[Any]]) -> None:
    assert found.keys() == expected.keys()
    for name, objects in expected.items():
        assert len(found[name]) == len(objects), name
        for (label, box, mask), (known, corners, shape) in zip(found[name], objects):
            assert label == known and box == corners  # whole pixels, so to the bit
            assert shape is None or np.array_equal(mask, shape)


def run(root: Path, seed: int, configs: dict[bool, Path]) -> str:
    """Train on a random set; what became of it."""
    masks, root = bool(seed % 2), root / str(seed)
    files = write_odd_annotations(root / "set", seed)
    before, start = tree(root), time.process_time()
    new_run()
    try:
        runner.train(str(configs[masks]), str(root / "work"), data_root=str(root / "set"))
    except InputError as error:
        spent = time.process_time() - start
        assert str(error).isprintable(), error
        assert files.refused(masks), error
        assert tree(root) == before and spent < SECONDS, spent
        return "refused in one sentence"
    assert not files.refused(masks), files.names()
    found = {Path(path).name: objects for path, objects in LookHook.train.items()}
    check_equal(found, learned(files["train"], masks))
    left = files["val"].left(Use(False, masks))
    assert [thing["bbox"] for thing in LookHook.truth] == [thing["bbox"] for thing in left]
    assert [thing["area"] for thing in LookHook.truth] == [thing["area"] for thing in left]
    return "trained and evaluated"


def sweep(root: Path, seeds: range, configs: dict[bool, Path]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in seeds:
        try:
            counts[run(root, seed, configs)] += 1
        except BaseException as error:
            names = write_odd_annotations(root / f"{seed} again", seed).names()
            raise AssertionError(f"seed {seed}: {names}") from error
    return counts


def test_some(tmp_path: Path, configs: dict[bool, Path]) -> None:
    counts = sweep(tmp_path, range(12), configs)
    assert min(counts.values()) > 2 and len(counts) == 2


@pytest.mark.sweep
def test_many(
    tmp_path: Path, configs: dict[bool, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    counts = sweep(tmp_path, range(1000), configs)
    with capsys.disabled():
        print(f"\nodd annotation files with MMDetection, seeds 0 to 999: {dict(counts)}")
    assert min(counts.values()) > 100 and len(counts) == 2
