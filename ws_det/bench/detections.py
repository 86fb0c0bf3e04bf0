"""A seeded set of boxes, masks and detections, as COCO val with a detector on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ws_det.evaluation.progress import Progress

SIZE = (480, 640)
CLASSES = 80
OBJECTS = 7.35  # an image, on average
CORNERS = 16  # of a polygon


def write_set(truth: Path, found: Path, images: int, detections: int, masks: bool) -> int:
    """Write annotations and results, with the digits that float32 has in JSON.

    Two detections are near each object; the others are anywhere, of low score, and of the classes
    of the image's objects or ten more.

    Args:
        truth: File for the annotations, always with polygons.
        found: File for the results.
        images: How many.
        detections: On each.
        masks: Give the results masks, in RLE.

    Returns:
        The number of objects.
    """
    rng = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    progress = Progress(f"drawing {images} images")
    for image in range(1, images + 1):
        progress.step(images)
        count = int(rng.poisson(OBJECTS))
        present = rng.integers(1, CLASSES + 1, count // 2 + 1)
        boxes, labels = _boxes(rng, count), rng.choice(present, count)
        polygons = _polygons(rng, boxes)
        for box, label, polygon in zip(boxes.tolist(), labels.tolist(), polygons.tolist()):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label,
                    "bbox": box,
                    "area": round(0.6 * box[2] * box[3], 2),
                    "iscrowd": 0,
                    "segmentation": [polygon],
                }
            )
        near = np.repeat(np.arange(count), 2)[:detections]
        pool = np.concatenate([present, rng.integers(1, CLASSES + 1, 10)])
        moved = _moved(rng, boxes[near])
        moved = np.concatenate([moved, _boxes(rng, detections - len(near))])
        named = np.concatenate([labels[near], rng.choice(pool, detections - len(near))])
        scores = np.concatenate([rng.beta(4, 2, len(near)), rng.beta(1, 6, detections - len(near))])
        of_image = [
            {"image_id": image, "bbox": box, "score": score, "category_id": label}
            for box, score, label in zip(
                moved.astype(np.float32).tolist(),
                scores.astype(np.float32).tolist(),
                named.tolist(),
            )
        ]
        if masks:
            for result, mask in zip(of_image, _masks(_polygons(rng, moved))):
                result["segmentation"] = mask
        results += of_image
    height, width = SIZE
    content = {
        "images": [
            {"id": i, "file_name": f"{i:012d}.jpg", "height": height, "width": width}
            for i in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": c, "name": f"class {c}"} for c in range(1, CLASSES + 1)],
    }
    truth.write_text(json.dumps(content))
    found.write_text(json.dumps(results))
    return len(annotations)


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Of 10 to 300 pixels a side, small ones as often as large ones."""
    sides = np.exp(rng.uniform(np.log(10), np.log(300), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * (np.array(SIZE[::-1]) - sides)
    return np.concatenate([corners, sides], 1).round(2)


def _moved(rng: np.random.Generator, boxes: np.ndarray) -> np.ndarray:
    moved = boxes.copy()
    moved[:, :2] += rng.normal(0, 0.1, (len(boxes), 2)) * np.sqrt(boxes[:, 2:].prod(1))[:, None]
    moved[:, 2:] *= np.exp(rng.normal(0, 0.1, (len(boxes), 2)))
    return moved


def _polygons(rng: np.random.Generator, boxes: np.ndarray) -> np.ndarray:
    """Ragged ellipses, (N, 2 * CORNERS)."""
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    radii = rng.uniform(0.7, 1, (len(boxes), CORNERS, 1))
    centers, halves = boxes[:, None, :2] + boxes[:, None, 2:] / 2, boxes[:, None, 2:] / 2
    return (centers + halves * radii * circle).reshape(len(boxes), 2 * CORNERS).round(2)


def _masks(polygons: np.ndarray) -> list[dict[str, Any]]:
    from pycocotools import mask

    encoded = mask.frPyObjects(polygons.tolist(), *SIZE)
    return [{"size": list(SIZE), "counts": rle["counts"].decode()} for rle in encoded]
