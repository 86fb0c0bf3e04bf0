"""Draw truth beside prediction: several images in one PNG."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import abspath
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pycocotools import mask as coco_mask

from ws_det.errors import InputError, printable
from ws_det.files import write_png


@dataclass
class Drawn:
    """One thing to draw: its box x1 y1 x2 y2 and, where they are known, mask (H, W) and score."""

    label: int
    box: np.ndarray
    mask: np.ndarray | None = None
    score: float | None = None
    iscrowd: bool = False


class Pair(NamedTuple):
    """An image, RGB of (H, W, 3) and uint8, with what is on it and what was found."""

    title: str
    image: np.ndarray
    truth: Sequence[Drawn]
    found: Sequence[Drawn]


def draw_grid(pairs: Sequence[Pair], names: Sequence[str], path: str | Path) -> None:
    """Write one PNG with two images a row, each as truth and as prediction.

    Args:
        pairs: The images, in the order in which they are drawn.
        names: Of the classes, by label.
        path: PNG to write; its folder is made.
    """
    rows = max(1, -(-len(pairs) // 2))
    figure = Figure(figsize=(14, 3.75 * rows), layout="constrained")
    FigureCanvasAgg(figure)  # no display, and pyplot's state stays the user's
    axes = figure.subplots(rows, 4, squeeze=False).reshape(-1, 2)
    for ax in axes.ravel():
        ax.set_axis_off()
    for (left, right), pair in zip(axes, pairs):
        _draw(left, pair.image, pair.truth, names, f"{pair.title}: truth")
        _draw(right, pair.image, pair.found, names, "prediction")
    write_png(figure, path, dpi=100)


def decode_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Polygons or RLE, compressed or not, to a mask (H, W).

    Raises:
        InputError: If it is RLE of another size.
    """
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, *size)
    mask = coco_mask.decode(segmentation).astype(bool)
    if mask.shape != tuple(size):
        raise InputError(
            f"a mask has height and width {list(mask.shape)}, and its image {list(size)}: write "
            f"the annotations again, or leave it out"
        )
    return mask


def name_below(path: str, folder: str) -> str:
    """What an image is called below a folder: ``cam1/0001.jpg``, as a picture may be called too.

    Args:
        path: Of the image.
        folder: Of all images; of one that is not in it, the name is all of its path.

    Returns:
        A relative path that leads nowhere but below.
    """
    image = PurePath(abspath(path))
    root = abspath(folder)
    return str(image.relative_to(root if image.is_relative_to(root) else image.anchor))


def _draw(
    ax: Axes, image: np.ndarray, things: Sequence[Drawn], names: Sequence[str], title: str
) -> None:
    image = image.astype(float)
    masked = [thing for thing in things if thing.mask is not None]
    for thing in masked:
        image[thing.mask] = 0.65 * image[thing.mask] + 0.35 * 255 * _color(thing.label)
    ax.imshow(image.astype(np.uint8))
    ax.set_autoscale_on(False)
    ax.set_title(printable(title), fontsize=10, parse_math=False)
    for thing in masked:
        if thing.mask.any() and not thing.mask.all():
            ax.contour(thing.mask, [0.5], colors=[_color(thing.label)], linewidths=2)
    for thing in things:
        color = _color(thing.label)
        x1, y1, x2, y2 = thing.box
        style = "dashed" if thing.iscrowd else "solid"
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=color, linestyle=style))
        text = printable(str(names[thing.label])) + " crowd" * thing.iscrowd
        text += f" {thing.score:.2f}" if thing.score is not None else ""
        ax.annotate(
            text,
            (max(x1, 0), max(y1, 0.07 * len(image))),  # a label above the image would be cut
            fontsize=8,
            parse_math=False,  # a name may have dollars in it
            va="bottom",
            bbox=dict(facecolor=color, edgecolor="none", pad=1, alpha=0.9),
            in_layout=False,  # a long one must not shrink the image
        )


def _color(label: int) -> np.ndarray:
    """A colour per class; golden-ratio steps in hue keep neighbours apart."""
    return np.array(colorsys.hsv_to_rgb(label * 0.618 % 1, 0.75, 1.0))
