"""Which images the page shows. Oracle: a few images whose F1 and errors are counted by hand."""

from __future__ import annotations

import pytest

pytest.importorskip("pycocotools", reason="errors are sorted with pycocotools")

from ws_det.evaluation.report_choice import COUNT, Kept, choose
from ws_det.evaluation.report_errors import sort_errors


def made(objects: dict[int, int], hits: dict[int, int], wrong: dict[int, int]) -> tuple:
    """A set and detections with so many objects, hits and wrong detections in each image."""

    def entry(image: int, slot: int, shift: float = 0) -> dict:
        box = [30.0 * slot, shift, 20.0, 20.0]
        return {"image_id": image, "category_id": 1, "bbox": box, "area": 400.0}

    annotations = [entry(i, slot) for i, count in objects.items() for slot in range(count)]
    found = [{**entry(i, slot), "score": 0.9} for i, count in hits.items() for slot in range(count)]
    found += [{**entry(i, s, 500), "score": 0.8} for i, n in wrong.items() for s in range(n)]
    found.append({**entry(min(objects), 0, 900), "score": 0.1})  # below every threshold here
    truth = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in objects],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{**a, "id": n, "iscrowd": 0} for n, a in enumerate(annotations, 1)],
    }
    return truth, Kept(found, sort_errors(truth, found, "bbox"), 0.5)


def test_worst_and_best_by_f1() -> None:
    objects = {1: 4, 2: 2, 3: 5, 4: 1, 5: 0, 6: 3}
    truth, kept = made(objects, hits={1: 2, 2: 2, 3: 5, 6: 0}, wrong={2: 1})
    chosen = choose(truth, [kept])
    # 6 and 4 find nothing, 6 with more errors; image 5 has nothing to find and nothing found.
    assert [(c.group, c.image_id) for c in chosen] == [
        *(("worst", i) for i in (6, 4, 1, 2)),
        ("best", 3),
    ]
    assert [c.errors[0] for c in chosen] == [3, 1, 2, 1, 0]
    assert [c.f1[0] for c in chosen] == pytest.approx([0, 0, 2 * 2 / 6, 2 * 2 / 5, 1])


def test_no_image_is_worst_and_best() -> None:
    objects = {i: i for i in range(1, 20)}
    truth, kept = made(objects, hits={i: i - 1 for i in objects}, wrong={})
    chosen = choose(truth, [kept])
    assert [c.group for c in chosen] == ["worst"] * COUNT + ["best"] * COUNT
    assert [c.image_id for c in chosen] == [*range(1, COUNT + 1), *range(19, 19 - COUNT, -1)]


def test_two_runs_by_the_change_in_errors() -> None:
    objects = {1: 4, 2: 4, 3: 4, 4: 4}
    truth, first = made(objects, hits={1: 4, 2: 1, 3: 2, 4: 0}, wrong={})
    _, second = made(objects, hits={1: 2, 2: 2, 3: 2, 4: 4}, wrong={1: 1})
    chosen = choose(truth, [first, second])
    assert [(c.group, c.image_id, c.errors) for c in chosen] == [
        ("gained", 4, [4, 0]),
        ("gained", 2, [3, 2]),
        ("lost", 1, [0, 3]),
    ]
