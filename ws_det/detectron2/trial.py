"""Build a config's loaders on one image, so that what is wrong with them shows before a run."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ws_det.detectron2.copies import registered_anew
from ws_det.detectron2.mapper import is_detectron2s
from ws_det.detectron2.recipe import Recipe
from ws_det.detectron2.set_files import Findings
from ws_det.images import image_size, opened

_MOST = 10_000


def try_loaders(recipe: Recipe, found: Findings, train_sets: Sequence[str]) -> None:
    """Build the loaders of a run with one image for all of a set, and map it for the training.

    Args:
        recipe: Of the config.
        found: In its sets.
        train_sets: Those of the run, none where it evaluates alone.

    Raises:
        InputError: If that image is damaged.
        Exception: Whatever is raised by what the config names.
    """
    if recipe.proposals or not {*train_sets, *recipe.test_sets} <= found.images.keys():
        return  # proposals are of the set's own images, or there is none of which we know
    with registered_anew(found.metadata):
        entries = {name: _entry(name, path) for name, (path, _) in found.images.items()}
        for name, entry in entries.items():
            # As often as there are images, for samplers that take a share of them.
            count = min(found.images[name][1], _MOST)
            DatasetCatalog[name] = lambda entry=entry, count=count: count * [copy.deepcopy(entry)]
        for name in recipe.test_sets[:1]:
            recipe.build_test_loader(name)
        if train_sets:
            recipe.build_train_loader(seed=0, skip=0)
            mapper = recipe.train_mapper()
            if mapper and is_detectron2s(mapper.mapper):
                mapper.mapper(entries[train_sets[0]])


def _entry(name: str, path: str) -> dict[str, Any]:
    """A dataset dict with one object that fills the image."""
    height, width = image_size(path)
    with opened(path) as image:
        image.load()  # if it is damaged, the loader is not to blame
    thing = {
        "bbox": [0, 0, width, height],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "segmentation": [[0, 0, width, 0, width, height, 0, height]],
    }
    points = MetadataCatalog.get(name).get("keypoint_names")
    if points:
        thing["keypoints"] = [width / 2, height / 2, 2] * len(points)
    size = {"height": height, "width": width}
    return {"file_name": path, "image_id": 0, "annotations": [thing], **size}
