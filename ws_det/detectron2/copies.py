"""Let everything that reads a set during a run read its mended annotations, and complete dicts."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ws_det.detectron2.own_sets import complete, is_own
from ws_det.detectron2.set_files import Findings
from ws_det.report import write_json


def write_copies(found: Findings, folder: str) -> dict[str, dict[str, Any]]:
    """Write annotation files as they were mended.

    Args:
        found: By the checks of the sets.
        folder: Of the run.

    Returns:
        For each set the metadata that are to be others, for ``registered_anew``.
    """
    sets = {name: dict(metadata) for name, metadata in found.metadata.items()}
    for name, content in found.contents.items():
        path = osp.join(folder, "annotations", f"{quote(name, safe='')}.json")
        write_json(Path(path), content, indent=None)
        sets[name]["json_file"] = path
    return sets


@contextmanager
def registered_anew(sets: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Register sets as a run is to see them, and in the end as they were.

    Loaders, evaluators and pictures ask Detectron2's catalogs for a set by its name. A set that
    Detectron2 reads from a file is read from the ``json_file`` given here; the user's own functions
    stay, and their dicts are completed.

    Args:
        sets: For each set the metadata that are to be others, or more.
    """
    catalogs = DatasetCatalog, MetadataCatalog
    before = [(catalog, name, catalog.data.get(name)) for name in sets for catalog in catalogs]
    try:
        for name, changes in sets.items():
            _register(name, changes)
        yield
    finally:
        for catalog, name, old in before:
            catalog.data.pop(name, None)
            if old is not None:
                catalog.data[name] = old


@contextmanager
def read_for_now(found: Findings) -> Iterator[None]:
    """Read sets as they were mended, where there is no folder of a run."""
    with TemporaryDirectory() as folder, registered_anew(write_copies(found, folder)):
        yield


def _register(name: str, changes: Mapping[str, Any]) -> None:
    metadata = MetadataCatalog.get(name).as_dict() | changes
    if is_own(name):
        DatasetCatalog[name] = partial(complete, DatasetCatalog[name])
    elif "json_file" in changes:
        path, folder = metadata["json_file"], metadata["image_root"]
        DatasetCatalog[name] = partial(load_coco_json, path, folder, name)
    # Anew for all: an evaluator notes there which file it converted a set to.
    MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(**metadata)
