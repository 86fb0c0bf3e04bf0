"""Errors by type. Oracle: a scene of a few boxes whose types follow from TIDE's definitions.

Boxes are 20 x 20; one moved by 10 has IoU 200 / 600 = 1/3 with where it was.
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("pycocotools", reason="errors are sorted with pycocotools")

import numpy as np
from pycocotools import mask as coco_mask

from ws_det.errors import InputError
from ws_det.evaluation.report_errors import CORRECT, TYPES, count_errors, sort_errors

CAT, DOG = 3, 7
FIELD = {"bbox": "bbox", "segm": "segmentation"}


def thing(image: int, category: int, x: float, y: float, w: float = 20, **more: Any) -> dict:
    """A box, also as a mask."""
    mask = np.zeros((200, 500), np.uint8, order="F")
    mask[int(y) : int(y) + 20, int(x) : int(x + w)] = 1
    rle = coco_mask.encode(mask)
    rle["counts"] = rle["counts"].decode()
    shape = {"bbox": [x, y, w, 20], "segmentation": rle, "area": w * 20, "iscrowd": 0}
    return {"image_id": image, "category_id": category, **shape, **more}


def truth(*objects: dict) -> dict:
    return {
        "images": [{"id": i, "width": 500, "height": 200} for i in (4, 9)],
        "categories": [{"id": DOG, "name": "dog"}, {"id": CAT, "name": "cat"}],
        "annotations": [{**entry, "id": 10 * i} for i, entry in enumerate(objects)],
    }


OBJECTS = [
    thing(4, CAT, 300, 0, 50, iscrowd=1),
    thing(4, CAT, 0, 0),  # found
    thing(4, DOG, 100, 0),  # taken for a cat
    thing(4, CAT, 200, 0),  # badly placed
    thing(4, DOG, 0, 100),  # missed
]
# In no order; what each is, and about which object.
FOUND = [
    (thing(4, DOG, 400, 0, score=0.3), "background", None),
    (thing(4, CAT, 0, 0, score=0.9), "correct", 1),
    (thing(4, CAT, 0, 0, score=0.8), "duplicate", 1),
    (thing(4, CAT, 310, 0, score=0.95), "ignored", None),  # in the crowd
    (thing(4, CAT, 100, 0, score=0.7), "classification", 2),
    (thing(4, CAT, 210, 0, score=0.6), "localization", 3),
    (thing(4, DOG, 210, 0, score=0.5), "both", 3),
    (thing(9, CAT, 0, 0, score=0.4), "background", None),  # an image without objects
]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_each_type_is_told(kind: str) -> None:
    predictions = [
        {k: v for k, v in entry.items() if k in ("image_id", "category_id", "score", FIELD[kind])}
        for entry, _, _ in FOUND
    ]
    found = sort_errors(truth(*OBJECTS), predictions, kind)
    names = ["correct" if o == CORRECT else TYPES[o] for o in found.outcome]
    about = [int(found.objects[t]) if t >= 0 else None for t in found.target]
    told = dict(zip(found.detections.tolist(), zip(names, about)))
    expected = {i: (name, at) for i, (_, name, at) in enumerate(FOUND) if name != "ignored"}
    assert told == expected
    assert found.objects.tolist() == [1, 2, 3, 4]
    assert found.found.tolist() == [True, False, False, False]
    assert found.missed.tolist() == [False, False, False, True]
    assert count_errors(found) == {
        **{"classification": 1, "localization": 1, "both": 1},
        **{"duplicate": 1, "background": 2, "missed": 1},
    }


@pytest.mark.parametrize(
    ("moved", "name"),  # boxes 30 wide: IoU is (30 - moved) / (30 + moved)
    [
        (0, "correct"),
        (10, "correct"),  # IoU 0.5 is a match, as for COCO
        (10.1, "localization"),
        (24.5, "localization"),  # IoU 0.1009
        (24.6, "background"),  # IoU 0.0989
    ],
)
def test_boundaries(moved: float, name: str) -> None:
    cat = thing(4, CAT, moved, 0, 30, score=1)
    found = sort_errors(truth(thing(4, CAT, 0, 0, 30)), [cat], "bbox")
    assert ["correct", *TYPES][found.outcome[0] + 1] == name


def test_place_comes_before_class() -> None:
    """A cat over a dog, badly placed on a cat too, is a localization error, as in TIDE's code."""
    objects = [thing(4, CAT, 0, 0), thing(4, DOG, 12, 0)]
    found = sort_errors(truth(*objects), [thing(4, CAT, 10, 0, score=1)], "bbox")
    assert TYPES[found.outcome[0]] == "localization" and found.objects[found.target[0]] == 0


def test_class_comes_before_duplicate() -> None:
    objects = [thing(4, CAT, 0, 0), thing(4, DOG, 2, 0)]
    cats = [thing(4, CAT, 0, 0, score=1), thing(4, CAT, 1, 0, score=0.5)]
    found = sort_errors(truth(*objects), cats, "bbox")
    assert found.outcome.tolist() == [CORRECT, TYPES.index("classification")]


def test_an_error_about_a_found_object_leaves_no_other_one_out() -> None:
    """A localization error about an object that has a match does not save one that has none."""
    objects = [thing(4, CAT, 0, 0), thing(4, CAT, 300, 100)]
    cats = [thing(4, CAT, 0, 0, score=1), thing(4, CAT, 10, 0, score=0.5)]
    found = sort_errors(truth(*objects), cats, "bbox")
    assert TYPES[found.outcome[1]] == "localization"
    assert found.missed.tolist() == [False, True]


def test_nothing_found_is_all_missed() -> None:
    found = sort_errors(truth(*OBJECTS), [], "bbox")
    assert len(found.outcome) == 0 and count_errors(found)["missed"] == 4


def test_no_objects_is_all_background() -> None:
    found = sort_errors(truth(), [thing(4, CAT, 0, 0, score=1)], "segm")
    assert count_errors(found)["background"] == 1 and not len(found.objects)


def test_predictions_of_another_set_are_refused() -> None:
    with pytest.raises(InputError, match="image 5"):
        sort_errors(truth(*OBJECTS), [thing(5, CAT, 0, 0, score=1)], "bbox")
