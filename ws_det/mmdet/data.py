"""Point a config at a COCO-format set, and check the set before anything is written."""

from __future__ import annotations

import colorsys
import os.path as osp
from collections.abc import Iterator, Sequence
from typing import Any

from mmdet.registry import DATASETS
from mmengine.config import Config

from ws_det.coco import category_names, check_images, check_shapes, read_annotations
from ws_det.errors import InputError

_HEADS = ("bbox_head", "mask_head")


def set_data_root(cfg: Config, root: str, parts: Sequence[str]) -> None:
    """Let every dataset and evaluator read from ``root``, and the set name the classes.

    File names and folders inside the root stay as the config has them, for the supplied configs
    COCO's own: ``annotations/instances_{train,val}2017.json`` and ``{train,val}2017/``.

    Args:
        cfg: The config, changed in place.
        root: Of the set.
        parts: The dataloaders in use, the first names the classes: ``("train", "val")``.

    Raises:
        InputError: If the root or the first annotation file is missing or unreadable.
    """
    if not osp.isdir(root):
        raise InputError(f"there is no folder {root}: give --data-root the folder of a COCO set")
    datasets = [d for part in ("train", "val", "test") for d in datasets_of(cfg, part)]
    for dataset in datasets:
        dataset.data_root = root
    for part in ("val", "test"):
        for evaluator in evaluators_of(cfg, part):
            evaluator.ann_file = osp.join(root, datasets_of(cfg, part)[0].ann_file)
    first = datasets_of(cfg, parts[0])[0]
    names = category_names(read_annotations(annotation_file(first)))
    if names == list(_classes(first)):
        return  # keep the config's own words and colours
    colors = [colorsys.hsv_to_rgb(i * 0.618 % 1, 0.8, 1) for i in range(len(names))]
    palette = [tuple(round(255 * channel) for channel in color) for color in colors]
    for dataset in datasets:
        dataset.metainfo = dict(classes=tuple(names), palette=palette)
    for head in heads_of(cfg.model):
        head["num_classes"] = len(names)


def check_data(cfg: Config, parts: Sequence[str]) -> None:
    """Check roots, annotation files, categories and that every image file exists.

    Args:
        cfg: The config, complete.
        parts: The dataloaders in use.

    Raises:
        InputError: For the first fault found.
    """
    for part in parts:
        for dataset in datasets_of(cfg, part):
            root = dataset.get("data_root") or "."
            if dataset.get("backend_args") or "://" in root:
                continue  # not on this machine's disk
            if not osp.isdir(root):
                raise InputError(
                    f"the data root {root} does not exist: pass --data-root FOLDER, which has "
                    f"annotations/ and the image folders"
                )
            path = annotation_file(dataset)
            if not path.endswith(".json"):
                continue
            annotations = read_annotations(path)
            check_shapes(path, annotations)
            _check_categories(cfg, dataset, path, category_names(annotations))
            _check_images(part, dataset, path, annotations["images"])


def datasets_of(cfg: Config, part: str) -> list[Any]:
    """The dataset configs with an annotation file in a dataloader, wrappers looked through."""
    return [d for d in dicts_of(cfg.get(f"{part}_dataloader")) if "ann_file" in d]


def evaluators_of(cfg: Config, part: str) -> list[Any]:
    """The evaluator configs that read an annotation file."""
    return [d for d in dicts_of(cfg.get(f"{part}_evaluator")) if "ann_file" in d]


def heads_of(model: Any) -> list[Any]:
    """The head configs whose ``num_classes`` counts the set's classes."""
    heads = [d[key] for d in dicts_of(model) for key in _HEADS if key in d]
    return [d for head in heads for d in dicts_of(head) if "num_classes" in d]


def annotation_file(dataset: Any) -> str:
    """Path of a dataset's annotation file."""
    return osp.join(dataset.get("data_root") or "", dataset.ann_file)


def dicts_of(node: Any) -> Iterator[Any]:
    """Every dict inside a config's dicts, lists and tuples, the outermost first."""
    if isinstance(node, dict):
        yield node
        node = node.values()
    elif not isinstance(node, (list, tuple)):
        return
    for child in node:
        yield from dicts_of(child)


def _classes(dataset: Any) -> Sequence[str]:
    given = (dataset.get("metainfo") or {}).get("classes")
    return given or DATASETS.get(dataset.type).METAINFO.get("classes", ())


def _check_categories(cfg: Config, dataset: Any, path: str, names: Sequence[str]) -> None:
    classes = _classes(dataset)
    absent = [name for name in classes if name not in names]
    if absent:
        raise InputError(
            f"the config has {len(absent)} categories that {path} does not have "
            f"({_first(absent)}): pass --data-root FOLDER to take the set's own"
        )
    for head in heads_of(cfg.model):
        if head["num_classes"] != len(classes):
            raise InputError(
                f"num_classes={head['num_classes']} of {head.get('type')} does not match the "
                f"{len(classes)} classes of the data: pass --data-root FOLDER, which sets both"
            )
    named = [name for name in names if name in classes]
    if named != list(classes):
        raise InputError(
            f"{path} lists its categories in another order ({_first(named)}) than the "
            f"classes are in ({_first(classes)}), and mmdet takes labels from each "
            f"file's order: write all annotation files with the categories in one order"
        )


def _first(names: Sequence[Any]) -> str:
    return ", ".join([*map(str, names[:3]), "..."])


def _check_images(part: str, dataset: Any, path: str, images: list[dict[str, Any]]) -> None:
    prefix = dataset.get("data_prefix") or {}
    folder = osp.join(dataset.get("data_root") or "", prefix.get("img") or "")
    way_out = (
        f"complete the folder, or name it with --cfg-options "
        f"{part}_dataloader.dataset.data_prefix.img=FOLDER"
    )
    if dataset.get("type") == "LVISV1Dataset":  # which takes its names from elsewhere
        images = [{"file_name": _lvis_name(image)} for image in images]
    check_images(path, folder, images, way_out)


def _lvis_name(image: dict[str, Any]) -> Any:
    url = image.get("coco_url")
    return url.replace("http://images.cocodataset.org/", "") if isinstance(url, str) else url
