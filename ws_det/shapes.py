"""A seeded COCO-format data set of drawn shapes: what the demo learns from, with no download.

``ws_det.scene`` draws the pictures; here they become files in COCO's own layout.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from ws_det.errors import InputError
from ws_det.files import new_folder
from ws_det.scene import CATEGORIES, Thing, draw_image

STAMP = "shapes.json"


@dataclass(frozen=True)
class ShapesSpec:
    """What decides the data set, to the byte."""

    train_images: int = 3000
    val_images: int = 150
    image_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"train_images": 1, "val_images": 1, "image_size": 64, "seed": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} is {getattr(self, name)}: give at least {low}")


def make_shapes(root: str | Path, spec: ShapesSpec) -> bool:
    """Write the data set in COCO's own layout, or keep the one that is there.

    It is written beside ``root`` and renamed, so that ``root`` is whole or absent.

    Args:
        root: folder to make: ``annotations/instances_{train,val}2017.json``, ``train2017/``,
            ``val2017/`` and ``shapes.json``, the parameters.
        spec: how many images, how large, which seed.

    Returns:
        True if it was written, False if the same set was there already.

    Raises:
        InputError: ``root`` cannot be written, or holds something else.
    """
    root = Path(root).absolute()
    try:
        if _is_made(root, spec):
            return False
        with new_folder(root) as partial:
            _write_split(partial, "train", spec.train_images, spec)
            _write_split(partial, "val", spec.val_images, spec)
            (partial / STAMP).write_text(json.dumps(asdict(spec)))
    except OSError as error:
        raise InputError(
            f"the shapes set cannot be written to {root} ({error.strerror}): give another folder"
        ) from error
    return True


def segmentation(mask: np.ndarray, iscrowd: bool = False) -> list[list[float]] | dict[str, Any]:
    """Write a mask (H, W) as COCO does: polygons, or RLE for crowds and for parts with holes."""
    if iscrowd:  # uncompressed: lengths of the column-major runs of 0, 1, 0, ...
        ends = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=False, append=~mask[-1, -1]))
        return {"size": list(mask.shape), "counts": np.diff(ends, prepend=0).tolist()}
    # Contours of the doubled mask run a quarter pixel inside the edges of its pixels, so that
    # pycocotools decodes them to the very mask.
    doubled = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, nesting = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if (nesting[0, :, 3] >= 0).any():  # a hole
        rle = _encode(mask)
        return {"size": rle["size"], "counts": rle["counts"].decode()}
    return [((contour.ravel() + 0.5) / 2).tolist() for contour in contours]


def _is_made(root: Path, spec: ShapesSpec) -> bool:
    """Tell whether this very set is at ``root``; InputError if something else is."""
    stamp = root / STAMP
    if stamp.is_file():
        if stamp.read_text() == json.dumps(asdict(spec)):
            return True
        raise InputError(
            f"{root} holds a shapes set made with other parameters, {stamp.read_text()}: "
            f"remove it or give another folder"
        )
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        raise InputError(f"{root} is not empty and no shapes set: give an empty or a new folder")
    return False


def _write_split(root: Path, split: str, count: int, spec: ShapesSpec) -> None:
    folder = root / f"{split}2017"
    folder.mkdir()
    size = spec.image_size
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        # A stream of its own: the image does not depend on those before it.
        rng = np.random.default_rng([spec.seed, split == "val", number])
        image, things = draw_image(rng, size)
        name = f"{number:012d}.jpg"
        images.append({"id": number, "file_name": name, "height": size, "width": size})
        (folder / name).write_bytes(cv2.imencode(".jpg", image[:, :, ::-1])[1])
        for thing in things:
            ids = {"id": len(annotations) + 1, "image_id": number}
            annotations.append({**ids, **_annotation(thing)})
    categories = [{"id": key, "name": name} for key, name in CATEGORIES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = root / "annotations" / f"instances_{split}2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def _annotation(thing: Thing) -> dict[str, Any]:
    rle = _encode(thing.mask)
    return {
        "category_id": thing.category_id,
        "segmentation": segmentation(thing.mask, thing.iscrowd),
        "area": float(coco_mask.area(rle)),
        "bbox": coco_mask.toBbox(rle).tolist(),
        "iscrowd": int(thing.iscrowd),
    }


def _encode(mask: np.ndarray) -> dict[str, Any]:
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))
