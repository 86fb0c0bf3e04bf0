"""What the pipelines of data sets load, by their configs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ws_det.errors import InputError
from ws_det.mmdet.nodes import dicts_of


def mask_loaders(dataset: Any) -> Iterator[Any]:
    """The configs of loaders that load masks."""
    return (node for node in dicts_of(dataset.get("pipeline")) if node.get("with_mask"))


def image_loader(dataset: Any) -> Any:
    """The config of the loader of images, if it is one whose files have headers to be read."""
    for node in dicts_of(dataset.get("pipeline")):
        if node.get("type") in ("LoadImageFromFile", "LoadNamedImage"):
            elsewhere = node.get("backend_args") or node.get("imdecode_backend") == "tifffile"
            return None if elsewhere else node
    return None


def is_maskless(dataset: Any, content: Mapping[str, Any]) -> bool:
    """Whether a pipeline loads masks where an object has none: MMDetection raises KeyError."""
    things = content.get("annotations", [])
    return any(mask_loaders(dataset)) and not all(thing.get("segmentation") for thing in things)


def check_polygons(dataset: Any, path: str, content: Mapping[str, Any]) -> None:
    """Refuse what a loader of polygons marks as ignored without a word."""
    if all(node.get("poly2mask", True) for node in mask_loaders(dataset)):
        return
    things = content.get("annotations", [])
    coded = [t for t in things if isinstance(t.get("segmentation"), dict) and not t["iscrowd"]]
    if coded:
        raise InputError(
            f"{len(coded)} of {len(things)} annotations of {path} have their masks as RLE (the "
            f"first is id {coded[0]['id']}), and LoadAnnotations(poly2mask=False) takes polygons "
            f"alone: set poly2mask=True in the training pipeline"
        )


def check_mask_head(model: Any, dataset: Any) -> None:
    """Refuse a mask head that would have nothing to learn from.

    Args:
        model: Its config.
        dataset: Config of one that it learns from.

    Raises:
        InputError: If the loader of annotations leaves out the masks that the RoI head learns.
    """
    has_head = bool((model.get("roi_head") or {}).get("mask_head"))
    kinds = [node.get("type") for node in dicts_of(dataset.get("pipeline"))]
    if has_head and "LoadAnnotations" in kinds and not any(mask_loaders(dataset)):
        raise InputError(
            "model.roi_head.mask_head learns masks, and LoadAnnotations of the training pipeline "
            "loads none: set its with_mask=True, or mask_head=None and mask_roi_extractor=None"
        )
