"""Files that hotcoco reads itself. Oracle: what is evaluated when Python reads the same files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pycocotools")
pytest.importorskip("hotcoco")

import numpy as np

from tests.coco_cases import random_case
from ws_det.evaluation import evaluate
from ws_det.evaluation.files import evaluate_files


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    def write(truth: Any, found: Any) -> tuple[str, str]:
        paths = tmp_path / "truth.json", tmp_path / "found.json"
        for path, content in zip(paths, (truth, found)):
            path.write_text(json.dumps(content))
        return str(paths[0]), str(paths[1])

    return write


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_same_as_through_python(kind: str, written: Callable[..., tuple[str, str]]) -> None:
    truth, found = random_case(29)
    evaluated = evaluate_files(*written(truth, found), kind)
    assert evaluated is not None
    (precision, _), names, images = evaluated
    other = evaluate(truth, found, [kind], "hotcoco")[kind]
    assert np.array_equal(precision, other.precision)
    assert names == other.class_names and images == other.images


def test_masks_judge_sizes_by_their_own_area(written: Callable[..., tuple[str, str]]) -> None:
    """A large box around a small mask, found without a box as with it."""
    truth, found = random_case(29)
    aps = []
    for entries in (found, [{k: v for k, v in e.items() if k != "bbox"} for e in found]):
        evaluated = evaluate_files(*written(truth, entries), "segm")
        assert evaluated is not None
        aps.append(evaluated[0][0])
    assert np.array_equal(*aps)


@pytest.mark.parametrize(
    "change",
    [
        lambda truth, found: found[0].update(score=math.nan),
        lambda truth, found: found[0].update(score=math.inf),
        lambda truth, found: found[0].update(score=None),
        lambda truth, found: found[0].pop("score"),
        lambda truth, found: found[0].update(bbox=None, segmentation=None),
        lambda truth, found: found[0].update(image_id=99999),
        lambda truth, found: found[0].update(category_id=99999),
        lambda truth, found: found[0].update(image_id=str(found[0]["image_id"])),
        lambda truth, found: truth["annotations"][0].pop("area"),
        lambda truth, found: truth["annotations"][0].update(area=None),
        lambda truth, found: [truth["annotations"][0].pop(key) for key in ("bbox", "segmentation")],
        lambda truth, found: truth["annotations"][0].update(bbox=None, segmentation=None),
        lambda truth, found: truth["annotations"][0].update(id=truth["annotations"][1]["id"]),
        lambda truth, found: truth["annotations"][0].update(id=-4),
        lambda truth, found: truth["annotations"][0].update(image_id=99999),
        lambda truth, found: truth["annotations"][0].update(category_id=99999),
        lambda truth, found: truth["annotations"][0].update(iscrowd=None),
        lambda truth, found: truth["annotations"][0].update(bbox=[9, 9, -4, 5]),
        lambda truth, found: truth["annotations"][0].update(bbox=[9, 9, 4, 5], area=0),
        lambda truth, found: truth["categories"].append({**truth["categories"][0], "name": "b"}),
        lambda truth, found: truth["images"].append(truth["images"][0]),
    ],
)
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_what_is_odd_is_left_to_python(
    kind: str, change: Callable[[Any, Any], Any], written: Callable[..., tuple[str, str]]
) -> None:
    """hotcoco has answers to some of these that pycocotools does not have."""
    truth, found = random_case(29)
    change(truth, found)
    assert evaluate_files(*written(truth, found), kind) is None


def test_a_category_twice(written: Callable[..., tuple[str, str]]) -> None:
    truth, found = random_case(29)
    truth["categories"].append(truth["categories"][0])
    names = evaluate(*written(truth, found), ["bbox"])["bbox"].class_names
    assert len(names) == len(set(names)) == len(truth["categories"]) - 1


def test_masks_without_an_image_size_are_left_to_python(
    written: Callable[..., tuple[str, str]],
) -> None:
    """hotcoco raises in the midst of its evaluation there. The same with no categories."""
    truth, found = random_case(29)
    paths = written(truth | {"categories": []}, [])
    assert evaluate_files(*paths, "bbox") is None
    for image in truth["images"]:
        image.pop("height", None)
    assert evaluate_files(*written(truth, found), "segm") is None
