"""Random COCO cases, seeded, with what evaluations trip over; and pycocotools to compare with."""

from __future__ import annotations

import copy
import io
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SMALL, LARGE = 32.0**2, 96.0**2  # the areas on which COCO's sizes border


def random_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truth and predictions.

    Ids have gaps and no order, annotations of one object repeat as crowds, areas lie on the
    borders of sizes, boxes have no area, negative or fractional sides, masks are polygons and RLE
    of both forms, images are without objects or without predictions, classes without truth,
    scores and overlaps tie, and every tenth case has more than 100 detections an image.
    """
    rng = np.random.default_rng(seed)
    drawn = _Drawn(rng)
    ids = rng.choice(1000, int(rng.integers(1, 6)), replace=False) + 1
    classes = rng.choice(90, int(rng.integers(1, 5)), replace=False) + 1
    with_truth = classes[: max(1, len(classes) - 1)]
    annotations: list[dict[str, Any]] = []
    for image in ids:
        for _ in range(int(rng.integers(0, 7)) if rng.random() < 0.85 else 0):
            box, crowd = drawn.box(), int(rng.random() < 0.15)
            annotations.append(
                {
                    "image_id": int(image),
                    "category_id": int(rng.choice(with_truth)),
                    "bbox": box,
                    "area": drawn.area(box),
                    "iscrowd": crowd,
                    "ignore": int(rng.random() < 0.1),  # which pycocotools writes over
                    "segmentation": drawn.mask(box, "plain" if crowd else None),
                }
            )
            if rng.random() < 0.2:
                annotations.append({**annotations[-1], "iscrowd": int(rng.random() < 0.3)})
    for annotation, number in zip(annotations, rng.permutation(4000) + 1):
        annotation["id"] = int(number)
    predictions = []
    for image in ids:
        objects = [a for a in annotations if a["image_id"] == image]
        most = 180 if seed % 10 == 9 else 9
        count = int(rng.integers(most // 2 + 12 if most > 9 else 0, most))
        for _ in range(count if rng.random() < 0.85 else 0):
            box, category = drawn.near(objects, classes)
            predictions.append(
                {
                    "image_id": int(image),
                    "category_id": category,
                    "bbox": box,
                    "score": drawn.score(),
                    "segmentation": drawn.mask(box, "compressed"),
                }
            )
    rng.shuffle(annotations)
    rng.shuffle(predictions)
    truth = {
        "images": [
            {"id": int(i), "file_name": f"{i}.jpg", "height": drawn.height, "width": drawn.width}
            for i in ids
        ],
        "annotations": annotations,
        "categories": [{"id": int(c), "name": f"class {c}"} for c in classes],
    }
    return truth, predictions


def reference(truth: dict[str, Any], predictions: list[dict[str, Any]], kind: str) -> COCOeval:
    """pycocotools by its own defaults; masks without boxes, so that their own area counts."""
    field = {"bbox": "bbox", "segm": "segmentation"}[kind]
    keys = ("image_id", "category_id", "score", field)
    with redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = copy.deepcopy(truth)
        known.createIndex()
        found = known.loadRes([{key: entry[key] for key in keys} for entry in predictions])
        evaluation = COCOeval(known, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


class _Drawn:
    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.height, self.width = (int(side) for side in rng.integers(40, 200, 2))
        self.grid = rng.random() < 0.4  # on multiples of eight, where overlaps tie
        self.scores = np.round(rng.random(5), 2)

    def box(self) -> list[float]:
        rng, kind = self.rng, self.rng.random()
        width, height = rng.uniform(1, self.width), rng.uniform(1, self.height)
        if kind < 0.2:
            width = height = 32 if kind < 0.1 else 96
        elif kind < 0.25:
            width = 0
        x, y = rng.uniform(-2, 0.8 * self.width), rng.uniform(-2, 0.8 * self.height)
        return [self._round(value) for value in (x, y, width, height)]

    def area(self, box: list[float]) -> float:
        kind = self.rng.random()
        if kind < 0.5:
            return box[2] * box[3]
        return float(self.rng.choice([SMALL, LARGE]) if kind < 0.8 else self.rng.uniform(0, 9300))

    def near(self, objects: list[dict[str, Any]], classes: np.ndarray) -> tuple[list[float], int]:
        """A box and its class; most of them near an object."""
        rng = self.rng
        category = int(rng.choice(classes))
        if not objects or rng.random() < 0.3:
            return self.box(), category
        near = objects[int(rng.integers(len(objects)))]
        box = list(near["bbox"])
        if rng.random() < 0.6:
            box = [self._round(v + rng.normal(0, 0.05 * (1 + abs(v)))) for v in box]
            box[2:] = [abs(side) for side in box[2:]]
        if rng.random() < 0.05:
            box[2] = -box[2]
        return box, category if rng.random() < 0.2 else near["category_id"]

    def score(self) -> float:
        """One of a few, which tie, or any float32."""
        few = self.rng.random() < 0.5
        return float(self.rng.choice(self.scores) if few else np.float32(self.rng.random()))

    def mask(self, box: list[float], form: str | None) -> Any:
        """A rectangle or a diamond as polygons, in compressed or in plain RLE."""
        x, y, w, h = box
        shape = [x, y, x + w, y, x + w, y + h, x, y + h]
        if self.rng.random() < 0.5:
            shape = [x, y + h / 2, x + w / 2, y, x + w, y + h / 2, x + w / 2, y + h]
        form = form or str(self.rng.choice(["one", "two", "compressed"]))
        if form in ("one", "two"):
            return [shape, [value + 3 for value in shape]][: 1 if form == "one" else 2]
        inside = [max(0.0, value) for value in shape]
        rle = mask_api.frPyObjects([inside], self.height, self.width)[0]
        if form == "compressed":
            return {"size": rle["size"], "counts": rle["counts"].decode()}
        flat = mask_api.decode(rle).ravel(order="F")
        edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
        counts = np.diff([0, *edges, flat.size]).tolist()
        return {"size": [self.height, self.width], "counts": counts}

    def _round(self, value: float) -> float:
        return float(round(value / 8) * 8) if self.grid else float(np.float32(value))
