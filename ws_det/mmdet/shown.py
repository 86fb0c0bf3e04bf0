"""The images of a test: what is on them, how they are read, and what their pictures are called."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmdet.structures import DetDataSample
from mmengine.dataset import BaseDataset

from ws_det.images import check_size, read_image
from ws_det.masks import is_size
from ws_det.mmdet.images import turns
from ws_det.pictures import name_below

_WAY_OUT = "replace it, or leave out --show-dir"


class Shown(NamedTuple):
    """An image of a test.

    Attributes:
        folder: Where pictures of it go, below the folder of all pictures: ``""``, or the set's name
            if there are several.
        info: All that the dataset has of it.
        name: Below the folder of the set's images.
        pixels: RGB, uint8, (H, W, 3), as the model's loader turns it.
    """

    folder: str
    info: dict[str, Any]
    name: str
    pixels: np.ndarray


class ShownImages:
    """Finds an image of a test by what a model returned for it.

    Args:
        dataset: In test mode, of one set or of several, joined by a ``ConcatDataset``.

    Attributes:
        classes: Names of each set's classes, by its folder of pictures.
    """

    def __init__(self, dataset: Any) -> None:
        sets = [*_sets(dataset)]
        names = [Path(one.ann_file).stem for one in sets]
        folders = [
            name if names.count(name) == 1 else f"{name}-{place}"
            for place, name in enumerate(names, 1)
        ]
        self._sets = dict(zip(folders if len(sets) > 1 else [""], sets))
        self.classes = {key: one.metainfo.get("classes") for key, one in self._sets.items()}
        self._places: dict[Any, list[tuple[str, str, int]]] = {}
        for folder, one in self._sets.items():
            for index in range(len(one)):
                info = one.get_data_info(index)
                place = info["img_path"], folder, index
                key = info.get("img_id", info["img_path"])  # sets of maps alone have no ids
                self._places.setdefault(key, []).append(place)

    def folder_of(self, sample: DetDataSample) -> str:
        """The key in ``classes`` of the set that a prediction is of."""
        return self._place(sample)[1]

    def find(self, sample: DetDataSample) -> Shown:
        """The image of a prediction.

        Raises:
            InputError: If it cannot be read, or is not of the size of which the annotations and the
                prediction are.
        """
        path, folder, index = self._place(sample)
        dataset = self._sets[folder]
        pixels = _read(path, _turns(dataset))
        info = dataset.get_data_info(index)
        for size in ((info.get("height"), info.get("width")), sample.get("ori_shape")):
            if is_size(size):
                check_size(path, pixels.shape[:2], size)
        return Shown(folder, info, name_below(path, _folder(dataset)), pixels)

    def _place(self, sample: DetDataSample) -> tuple[str, str, int]:
        """Path, folder and index; sets that are joined may count their images alike."""
        path = sample.get("img_path")
        places = self._places[sample.get("img_id", path)]
        path = path or places[0][0]
        return next(place for place in places if place[0] == path)


def _sets(dataset: Any) -> Iterator[BaseDataset]:
    """The datasets inside of wrappers."""
    inner = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    for one in inner:
        if one is not None:
            yield from _sets(one)
    if inner == [None]:
        yield dataset


def _folder(dataset: BaseDataset) -> str:
    prefix = dataset.data_prefix
    return prefix.get("img") or prefix.get("img_path") or dataset.data_root or ""


def _turns(dataset: BaseDataset) -> bool:
    """Whether the model sees photos upright, by the first loader of the pipeline."""
    loaders = [t for t in dataset.pipeline.transforms if isinstance(t, LoadImageFromFile)]
    return not loaders or getattr(loaders[0], "turns", turns(vars(loaders[0])))


def _read(path: str, turn: bool) -> np.ndarray:
    if "://" in path:  # elsewhere
        return mmcv.imread(path, channel_order="rgb")
    return read_image(path, turn, _WAY_OUT)
