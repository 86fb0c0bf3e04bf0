"""Files of proposals, which Detectron2 reads when a run has begun, and as a pickle that may run."""

from __future__ import annotations

import os.path as osp

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils.file_io import PathManager

from ws_det.checkpoint import load_checkpoint
from ws_det.errors import InputError


def check_proposals(cfg: CfgNode, *, test: bool) -> None:
    """Check the files of a config with ``MODEL.LOAD_PROPOSALS``.

    Args:
        cfg: Whose sets are registered.
        test: Whether to look at those to test on alone.

    Raises:
        InputError: If one is missing, holds more than arrays, or lacks an image of its set.
    """
    if not cfg.MODEL.LOAD_PROPOSALS:
        return
    for part in ("TEST",) if test else ("TRAIN", "TEST"):
        sets, files = cfg.DATASETS[part], cfg.DATASETS[f"PROPOSAL_FILES_{part}"]
        if len(sets) != len(files):
            raise InputError(
                f"MODEL.LOAD_PROPOSALS needs a file for each set, and DATASETS.PROPOSAL_FILES_"
                f"{part} has {len(files)} for {len(sets)}: name them, or set it to False"
            )
        for name, file in zip(sets, files):
            _check_file(name, file)


def _check_file(name: str, file: str) -> None:
    try:
        path = PathManager.get_local_path(file)
    except Exception:  # whatever the handler of the scheme raises
        path = file
    if not osp.isfile(path):
        raise InputError(f"there is no file of proposals {file} for {name}: give one that is there")
    content = load_checkpoint(path)
    ids = content.get("ids", content.get("indexes"))
    rest = ("boxes", "objectness_logits" if "objectness_logits" in content else "scores")
    if ids is None or any(len(content.get(key, ())) != len(ids) for key in rest):
        raise InputError(
            f"{file} has no proposals: give a pickled dict of ids, boxes and objectness_logits, "
            f"each a list with an item for each image"
        )
    known = {str(number) for number in ids}
    for image in DatasetCatalog.get(name):
        if str(image["image_id"]) not in known:
            raise InputError(
                f"{file} has no proposals for the image {image['image_id']} of {name}: give a file "
                f"made for this set"
            )
