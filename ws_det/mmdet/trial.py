"""Take one image through a dataset's pipeline, so that what is wrong with it shows before a run."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from ws_det.errors import InputError, first_line


def try_pipeline(cfg: Config, where: str, dataset: Any, content: Mapping[str, Any]) -> None:
    """Load the first image that has an object, with what is on it, as the run will.

    Args:
        cfg: The config.
        where: The dataloader, for the message.
        dataset: Config of a dataset in COCO's format.
        content: Of its annotation file, as the run reads it.

    Raises:
        InputError: If the pipeline ends in an error.
    """
    cls = DATASETS.get(dataset["type"]) if isinstance(dataset["type"], str) else dataset["type"]
    methods = "load_data_list", "parse_data_info"
    is_plain = all(getattr(cls, name) is getattr(CocoDataset, name) for name in methods)
    if not is_plain or dataset.get("proposal_file"):
        return  # what else it reads goes by the real file
    things = content.get("annotations") or []
    named = {thing["image_id"] for thing in things}
    images = [image for image in content["images"] if image["id"] in named] or content["images"]
    here = [thing for thing in things if thing["image_id"] == images[0]["id"]]
    first = {**content, "images": images[:1], "annotations": here}
    with TemporaryDirectory() as folder:
        path = Path(folder, "first.json")
        path.write_text(json.dumps(first))
        settings = {**copy.deepcopy(dataset), "ann_file": str(path), "lazy_init": False}
        settings |= {"indices": None, "filter_cfg": None}
        try:
            scope = cfg.get("default_scope", "mmdet")
            with DefaultScope.overwrite_default_scope(scope), _random_numbers_kept():
                DATASETS.build(settings).prepare_data(0)
        except InputError:
            raise
        except Exception as error:  # transforms of a config are anyone's
            raise InputError(
                f"the dataset of the config's {where} cannot load the image "
                f"{images[0]['file_name']} ({type(error).__name__}: {first_line(error)}): correct "
                f"its pipeline"
            ) from error


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """Draw random numbers, and leave those of the caller as they are."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
