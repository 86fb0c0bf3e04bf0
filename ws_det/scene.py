"""Pictures of drawn shapes, and which pixels of each shape can be seen.

Every picture has a patterned background, overlapping shapes, and now and then a crowd. The outline
alone makes the class: colour, size, tilt and place are drawn without looking at it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from pycocotools import mask as coco_mask

CATEGORIES = {1: "circle", 3: "square", 4: "triangle", 8: "star", 13: "ring"}  # gaps, as in COCO
MIN_VISIBLE = 0.5  # a shape that would show less of itself is left out of the picture
CROWD_RATE = 0.08

Rng = np.random.Generator


@dataclass(frozen=True)
class Thing:
    """One annotated thing: its category and its pixels (H, W)."""

    category_id: int
    mask: np.ndarray
    iscrowd: bool = False


def draw_image(rng: Rng, size: int) -> tuple[np.ndarray, list[Thing]]:
    """Draw one picture.

    Args:
        rng: the only source of randomness.
        size: height and width in pixels.

    Returns:
        The image (size, size, 3), uint8 RGB, and the visible parts in it, from front to back.
    """
    image, colours = _background(rng, size)
    covered = np.zeros((size, size), bool)
    things = []
    for whole in _scene(rng, size):
        visible = whole.mask & ~covered
        if visible.sum() < MIN_VISIBLE * whole.mask.sum():
            continue
        covered |= whole.mask
        colours.append(_fresh_colour(rng, colours))
        _paint(rng, image, visible, colours[-1])
        things.append(Thing(whole.category_id, visible, whole.iscrowd))
    image += rng.uniform(2, 8) * rng.standard_normal(image.shape, np.float32)
    return image.clip(0, 255).astype(np.uint8), things


def _scene(rng: Rng, size: int) -> list[Thing]:
    """Whole shapes, as if nothing covered them, from front to back; a crowd lies behind all."""
    things = []
    for _ in range(rng.integers(2, 6)):
        category_id = int(rng.choice(list(CATEGORIES)))
        centre, radius = rng.uniform(0.12, 0.88, 2) * size, rng.uniform(0.12, 0.26) * size
        things.append(Thing(category_id, _outline(rng, category_id, centre, radius, size)))
    if rng.random() < CROWD_RATE:
        category_id = int(rng.choice(list(CATEGORIES)))
        centres = (rng.uniform(0.3, 0.7, 2) + rng.normal(0, 0.12, (12, 2))) * size
        radii = rng.uniform(0.03, 0.06, 12) * size
        members = [_outline(rng, category_id, c, r, size) for c, r in zip(centres, radii)]
        things.append(Thing(category_id, np.any(members, axis=0), iscrowd=True))
    return things


def _outline(
    rng: Rng, category_id: int, centre: np.ndarray, radius: float, size: int
) -> np.ndarray:
    """Fill one shape, tilted by up to 20 degrees: mask (size, size)."""
    name = CATEGORIES[category_id]
    corners = {"circle": 40, "ring": 40, "square": 4, "triangle": 3, "star": 10}[name]
    first = {"square": np.pi / 4}.get(name, -np.pi / 2)  # upright
    angles = first + rng.uniform(-0.35, 0.35) + np.arange(corners) * 2 * np.pi / corners
    reach = np.where(np.arange(corners) % 2, 0.45 if name == "star" else 1.0, 1.0)
    unit = reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    mask = _fill(centre + radius * unit, size)
    return mask & ~_fill(centre + 0.5 * radius * unit, size) if name == "ring" else mask


def _fill(polygon: np.ndarray, size: int) -> np.ndarray:
    rles = coco_mask.frPyObjects([polygon.ravel().tolist()], size, size)
    return coco_mask.decode(rles)[:, :, 0].astype(bool)


def _background(rng: Rng, size: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A pattern between two colours near each other: image (size, size, 3) and the two colours."""
    y, x = np.mgrid[:size, :size] / size
    angle = rng.uniform(0, 2 * np.pi)
    gradient = x * np.cos(angle) + y * np.sin(angle)
    stripes = np.sin(2 * np.pi * rng.uniform(2, 8) * gradient)
    coarse = rng.random((int(rng.integers(3, 9)),) * 2).astype(np.float32)
    blobs = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    tiles = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_NEAREST)
    noise = rng.random((size, size))
    patterns = [gradient, stripes, stripes > 0, blobs, blobs > 0.5, tiles, noise]
    mix = patterns[rng.integers(len(patterns))][..., None]
    first = rng.uniform(0, 255, 3)
    second = (first + rng.uniform(-50, 50, 3)).clip(0, 255)
    return first + (second - first) * mix, [first, second]


def _fresh_colour(rng: Rng, taken: list[np.ndarray]) -> np.ndarray:
    """Of 20 colours the one farthest from those already in the picture."""
    tries = rng.uniform(0, 255, (20, 3))
    distance = np.linalg.norm(tries[:, None] - np.stack(taken), axis=2).min(axis=1)
    return tries[distance.argmax()]


def _paint(rng: Rng, image: np.ndarray, where: np.ndarray, colour: np.ndarray) -> None:
    """Fill the pixels ``where`` (H, W) with a colour under a soft slanting light, in place."""
    places = np.argwhere(where) / len(where) - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    image[where] = colour + 40 * places @ np.array([[np.sin(angle)], [np.cos(angle)]])
