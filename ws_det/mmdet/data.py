"""Point a config at a COCO-format set, and check the set before anything is written."""

from __future__ import annotations

import os.path as osp
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config

from ws_det.coco import category_names, check_images, check_shapes, read_content
from ws_det.errors import InputError
from ws_det.mmdet import annotations as coco
from ws_det.mmdet.annotations import Reading
from ws_det.mmdet.classes import check_categories, classes_of, take_classes
from ws_det.mmdet.heads import heads_in
from ws_det.mmdet.nodes import with_file
from ws_det.mmdet.pipelines import check_mask_head, is_maskless
from ws_det.mmdet.trial import try_pipeline


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
        sets, evaluators = datasets_of(cfg, part), evaluators_of(cfg, part)
        one_each = len(sets) == len(evaluators)
        for place, evaluator in enumerate(evaluators):
            dataset = sets[place if one_each else 0]
            evaluator.ann_file = osp.join(root, dataset.ann_file)
            if "seg_prefix" in evaluator:
                evaluator.seg_prefix = osp.join(root, dataset.data_prefix.seg)
    first = next(iter(datasets_of(cfg, parts[0])), None)
    if first is None:
        raise InputError(
            f"--data-root {root}: no dataset of {parts[0]}_dataloader has an annotation file, "
            f"so the config reads no set in COCO's format: take one that does"
        )
    take_classes(cfg.model, datasets, first, annotation_file(first))


def check_data(cfg: Config, parts: Sequence[str]) -> list[Reading]:
    """Check roots, annotation files, categories and that every image file exists.

    Args:
        cfg: The config, complete.
        parts: The dataloaders in use.

    Returns:
        How annotation files are to be read; those that are not among them as the config says.

    Raises:
        InputError: For the first fault found.
    """
    return [reading for part in parts for reading in _check_part(cfg, part)]


def _check_part(cfg: Config, part: str) -> list[Reading]:
    datasets, readings, has_objects = datasets_of(cfg, part), [], False
    for index, dataset in enumerate(datasets):
        path = _file_here(dataset)
        if not path:
            has_objects = True  # perhaps
            continue
        content, is_utf8 = read_content(path)
        is_first = index == 0 and part != "val"
        check_categories(cfg.model, dataset, path, category_names(content), is_first)
        _check_images(part, dataset, path, content["images"])
        has_objects = has_objects or bool(content.get("annotations"))
        if not coco.reads_coco(dataset):
            check_shapes(path, content)
            continue
        if part == "train":
            check_mask_head(cfg.model, dataset)
            is_last = index == len(datasets) - 1
            wanted = coco.wants_of_training(dataset, is_last and not has_objects)
        else:
            wanted = coco.wants_of_evaluation(cfg.get(f"{part}_evaluator"), path)
        folder, classes = _image_folder(dataset), classes_of(dataset)
        mended = coco.mend_of_dataset(dataset, path, content, folder, classes, wanted)
        mended = mended if is_utf8 else mended.rewritten()
        maskless = not wanted.training and is_maskless(dataset, mended.content)
        if not maskless:  # which loads masks yet, and will not in the run
            try_pipeline(cfg, f"{part}_dataloader", dataset, mended.content)
        readings.append(Reading.of(f"{part}_dataloader", index, path, mended, maskless))
    return readings + _of_evaluators(cfg, part, readings)


def _file_here(dataset: Any) -> str | None:
    """The path of a dataset's annotations, if they are JSON on a disk of this machine."""
    root = dataset.get("data_root") or "."
    if dataset.get("backend_args") or "://" in root:
        return None
    if not osp.isdir(root):
        raise InputError(
            f"the data root {root} does not exist: pass --data-root FOLDER, which has "
            f"annotations/ and the image folders"
        )
    path = annotation_file(dataset)
    return path if path.endswith(".json") else None


def _of_evaluators(cfg: Config, part: str, readings: Sequence[Reading]) -> list[Reading]:
    """How the evaluators of a part read their files: as its datasets do, if those are the same."""
    found = []
    for index, evaluator in enumerate(evaluators_of(cfg, part)):
        path = evaluator.ann_file
        if not path or evaluator.get("backend_args") or "://" in path:
            continue
        same = [reading.mended for reading in readings if coco.is_same(reading.path, path)]
        if not same and coco.judges_by_coco(evaluator):
            classes = classes_of(datasets_of(cfg, part)[0])
            same = [coco.mend_of_evaluator(evaluator, path, classes)]
        found += [Reading.of(f"{part}_evaluator", index, path, mended) for mended in same[:1]]
    return found


def datasets_of(cfg: Config, part: str) -> list[Any]:
    """The dataset configs with an annotation file in a dataloader, wrappers looked through."""
    return with_file(cfg.get(f"{part}_dataloader"))


def evaluators_of(cfg: Config, part: str) -> list[Any]:
    """The evaluator configs that read an annotation file."""
    return with_file(cfg.get(f"{part}_evaluator"))


def heads_of(model: Any) -> list[Any]:
    """The head configs that count the set's classes."""
    return [head.node for head in heads_in(model)]


def annotation_file(dataset: Any) -> str:
    """Path of a dataset's annotation file."""
    return osp.join(dataset.get("data_root") or "", dataset.ann_file)


def _check_images(part: str, dataset: Any, path: str, images: list[dict[str, Any]]) -> None:
    way_out = (
        f"complete the folder, or name it with --cfg-options "
        f"{part}_dataloader.dataset.data_prefix.img=FOLDER"
    )
    if dataset.get("type") == "LVISV1Dataset":  # which takes its names from elsewhere
        images = [{"file_name": _lvis_name(image)} for image in images]
    check_images(path, _image_folder(dataset), images, way_out)


def _image_folder(dataset: Any) -> str:
    prefix = dataset.get("data_prefix") or {}
    return osp.join(dataset.get("data_root") or "", prefix.get("img") or "")


def _lvis_name(image: dict[str, Any]) -> Any:
    url = image.get("coco_url")
    return url.replace("http://images.cocodataset.org/", "") if isinstance(url, str) else url
