"""Register COCO-format sets with Detectron2, and check them before anything is written."""

from __future__ import annotations

import os
import os.path as osp
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from ws_det.coco import check_images, check_shapes, read_annotations
from ws_det.detectron2.images import check_image
from ws_det.errors import InputError

PARTS = ("train", "val")


class NamedMapper:
    """A dataset mapper that names the image it could not read.

    Args:
        mapper: Detectron2's own or another.
    """

    def __init__(self, mapper: Any) -> None:
        self.mapper = mapper

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any] | None:
        """Map one dataset dict.

        Raises:
            InputError: If its image cannot be read or decoded.
        """
        path = dataset_dict.get("file_name")
        try:
            if isinstance(path, str) and "://" not in path:
                check_image(path, self.mapper)
            return self.mapper(dataset_dict)
        except InputError:
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
            raise InputError(f"the image {path} cannot be used ({reason}): replace it") from error


def image_names(batch: Sequence[dict[str, Any]]) -> list[str]:
    """Files and ids of a model's inputs."""
    return [f"{image.get('file_name')} (id {image.get('image_id')})" for image in batch]


def register_set(root: str, name: str) -> tuple[str, str]:
    """Register ``<name>_train`` and ``<name>_val`` of a COCO-format folder.

    The folder has COCO's own names: ``annotations/instances_{train,val}2017.json`` and
    ``{train,val}2017/``. Registering again moves the names to the new folder.

    Args:
        root: The folder; it is read only when the set is used.
        name: What to call it.

    Returns:
        The two names.
    """
    names = tuple(f"{name}_{part}" for part in PARTS)
    for part, registered in zip(PARTS, names):
        if registered in DatasetCatalog:
            DatasetCatalog.remove(registered)
            MetadataCatalog.remove(registered)
        annotations = osp.join(root, "annotations", f"instances_{part}2017.json")
        register_coco_instances(registered, {}, annotations, osp.join(root, f"{part}2017"))
    return names


def category_names(name: str) -> list[str] | None:
    """Class names of a registered set in the order of Detectron2's labels, that of their ids.

    Args:
        name: Of the set.

    Returns:
        The names, or None if the set is not in COCO's format.

    Raises:
        InputError: If no set has that name, or its annotation file is missing or damaged.
    """
    if name not in DatasetCatalog:
        raise InputError(
            f"no data set is registered as {name!r}: give --data-root FOLDER, or register it in "
            f"the config"
        )
    path = MetadataCatalog.get(name).get("json_file")
    if path is None:
        return None
    categories = read_annotations(path)["categories"]
    try:
        return [str(c["name"]) for c in sorted(categories, key=lambda category: category["id"])]
    except TypeError:
        raise InputError(f"the categories of {path} have no ids of one type: correct it") from None


def check_sets(names: Sequence[str], num_classes: Sequence[int]) -> None:
    """Check annotation files, categories and that every image file exists.

    Args:
        names: Registered sets, the first is the one that labels are taken from.
        num_classes: Of each head.

    Raises:
        InputError: For the first fault found.
    """
    classes: list[str] | None = None
    for name in names:
        own = category_names(name)
        if own is None:
            continue
        metadata = MetadataCatalog.get(name)
        wrong = [count for count in num_classes if count != len(own)]
        if wrong:
            raise InputError(
                f"num_classes={wrong[0]} of the config's model does not match the {len(own)} "
                f"categories of {metadata.json_file}: pass --data-root FOLDER, which sets both"
            )
        classes = classes or own
        if own != classes:
            raise InputError(
                f"{metadata.json_file} has other categories ({', '.join(own[:3])}, ...) than "
                f"{names[0]} ({', '.join(classes[:3])}, ...): use sets with the same ones"
            )
        annotations = read_annotations(metadata.json_file)
        check_shapes(metadata.json_file, annotations)
        images = annotations["images"]
        if metadata.get("evaluator_type") == "lvis":  # which takes folder and file from elsewhere
            names = ["/".join(str(image.get("coco_url")).split("/")[-2:]) for image in images]
            images = [{"file_name": name} for name in names]
        check_images(metadata.json_file, metadata.image_root, images, "complete the folder")


# Where Detectron2 looks for its own sets too.
register_set(osp.join(os.getenv("DETECTRON2_DATASETS", "datasets"), "shapes"), "shapes")
