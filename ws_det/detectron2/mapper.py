"""A dataset mapper that says what it could not use: the image, or what its dict says of it."""

from __future__ import annotations

import os.path as osp
from typing import Any

from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError

from ws_det.detectron2.images import check_image
from ws_det.errors import InputError, first_line
from ws_det.images import image_size, opened

NO_POLYGONS = (  # the end of a message
    "has a mask that is no list of polygons, as the config's loader wants them: set "
    "dataloader.train.mapper.instance_mask_format=bitmask (in a yaml config INPUT.MASK_FORMAT "
    "bitmask)"
)


class NamedMapper:
    """A dataset mapper that names the image it could not use, and what is wrong with it.

    Args:
        mapper: Detectron2's own or another.
    """

    def __init__(self, mapper: Any) -> None:
        self.mapper = mapper

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any] | None:
        """Map one dataset dict.

        Raises:
            InputError: If its image cannot be read or decoded, or its dict does not fit.
        """
        path = dataset_dict.get("file_name")
        local = isinstance(path, str) and "://" not in path
        try:
            if local and is_detectron2s(self.mapper):  # another may read what is no image to Pillow
                check_image(path)
            return self.mapper(dataset_dict)
        except InputError:
            raise
        except Exception as error:
            known = local and osp.exists(path) and _is_named_as_image(path)
            if known:
                with opened(path) as image:
                    image.load()
            raise InputError(_sentence(error, dataset_dict, self.mapper, known)) from error


def is_detectron2s(mapper: Any) -> bool:
    """Whether it maps as Detectron2's ``DatasetMapper`` does."""
    return type(mapper).__call__ is DatasetMapper.__call__


def learned(dataset_dict: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotations that a model learns from: all but crowds."""
    return [a for a in dataset_dict.get("annotations") or () if not a.get("iscrowd", 0)]


def mask_fault(annotations: list[dict[str, Any]], mask_format: str) -> str | None:
    """What keeps Detectron2 from learning the masks of an image.

    Args:
        annotations: The ``learned`` ones of the image.
        mask_format: ``"polygon"`` or ``"bitmask"``.

    Returns:
        The end of a sentence that begins with the image, or None.
    """
    masks = [annotation.get("segmentation") for annotation in annotations]
    if any(mask is None for mask in masks):
        return "has an annotation without a 'segmentation': give each one, or leave the object out"
    if mask_format == "polygon" and not all(isinstance(mask, list) for mask in masks):
        return NO_POLYGONS
    for mask in masks:
        sizes = [len(part) if hasattr(part, "__len__") else 0 for part in mask]
        if isinstance(mask, list) and (min(sizes, default=6) < 6 or any(n % 2 for n in sizes)):
            return (
                "has a 'segmentation' that is no list of polygons, each of x and y of three "
                "corners or more: correct it, or leave the object out"
            )
    return None


def _is_named_as_image(path: str) -> bool:
    from PIL import Image

    return osp.splitext(path)[1].lower() in Image.registered_extensions()


def _sentence(error: Exception, dataset_dict: dict[str, Any], mapper: Any, whole: bool) -> str:
    """What is wrong although the image is not; ``whole`` if it was looked at."""
    image = f"the image {dataset_dict.get('file_name')}"
    if isinstance(error, SizeMismatchError):
        height, width = image_size(dataset_dict["file_name"])
        return (
            f"{image} is {width} pixels wide and {height} high, upright, and its annotations say "
            f"{dataset_dict.get('width')} and {dataset_dict.get('height')}: correct its 'width' "
            f"and 'height'"
        )
    objects = learned(dataset_dict)
    if getattr(mapper, "use_instance_mask", False) and any("segmentation" in a for a in objects):
        fault = mask_fault(objects, mapper.instance_mask_format)
        if fault:
            return f"{image} {fault}"
    reason = f"{type(error).__name__}: {first_line(error)[:160]}"
    other = "" if is_detectron2s(mapper) else ", or the mapper"
    return (
        f"{type(mapper).__name__} fails on {image}{', which can be read' * whole} ({reason}): "
        f"correct its dataset dict{other}"
    )
