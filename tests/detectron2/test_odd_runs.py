"""Random odd annotation files (``tests/odd_annotations.py``) in whole runs of one process.

Each trains and is evaluated, or is refused in one sentence with nothing left behind. Oracles: the
set as it was before the oddities, and for what a model learns Detectron2's own reader and mapper on
the file that the run has read.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections import Counter

import pytest
import torch
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from tests.detectron2.conftest import DEMO
from tests.odd_annotations import HEIGHT, WIDTH, Use, write_odd_annotations
from tests.test_odd_annotations import check_equal
from ws_det.annotations import Mended
from ws_det.detectron2.config import load_recipe
from ws_det.detectron2.train import Job, run
from ws_det.errors import InputError

SECONDS = 5.0  # of this process, that a refusal may take after the imports
BOXES = f"""
from detectron2.config import LazyConfig

import ws_det

cfg = LazyConfig.load(ws_det.config_path({DEMO!r}))
dataloader, lr_multiplier, model, optimizer, train = (
    cfg[key] for key in ("dataloader", "lr_multiplier", "model", "optimizer", "train")
)
for key in ("mask_in_features", "mask_pooler", "mask_head"):
    del model.module.roi_heads[key]
dataloader.train.mapper.use_instance_mask = False
"""
TRAINING = ("train.max_iter=2", "train.log_period=1", "train.eval_period=0")


class Place:
    """A folder for runs, with a config of boxes and weights to evaluate."""

    def __init__(self, root):
        self.root = root
        self.configs = {True: DEMO, False: str(root / "boxes.py")}
        (root / "boxes.py").write_text(BOXES)
        for masks, config in self.configs.items():
            options = ["model.module.roi_heads.num_classes=2"]
            model = load_recipe(config, options).build_model()
            torch.save({"model": model.state_dict()}, root / f"{masks}.pth")

    def job(self, seed):
        """A training or an evaluation, with masks or without."""
        masks, eval_only = seed % 2 == 0, seed % 3 == 0
        options = [f"train.output_dir={self.root}/{seed}/out"]
        options += [f"train.init_checkpoint={self.root}/{masks}.pth"] if eval_only else TRAINING
        root = str(self.root / f"{seed}/set")
        return masks, Job(self.configs[masks], tuple(options), root, eval_only=eval_only)


def below(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def is_refused(files, masks, parts):
    """By the generator, but a file without the list at all is one to predict on."""
    rest = [p for p in parts if p != "val" or "no list of annotations" not in files[p].oddities]
    return files.refused(masks, rest)


def read(file, out, part, use):
    """What the run has read, by Detectron2's reader, and what the file was before."""
    copy = out / f"annotations/data_root_{part}.json"
    path = copy if copy.exists() else file.path
    check_equal(Mended(json.loads(path.read_bytes()), False, []), file, use)
    MetadataCatalog.pop("read", None)
    dicts = load_coco_json(str(path), str(file.path.parents[1] / f"{part}2017"), "read")
    return dicts, MetadataCatalog.get("read").thing_classes


def check_learned(file, out, masks):
    """The objects that Detectron2's mapper gives the model are those of the clean file."""
    use = Use(training=True, masks=masks)
    dicts, names = read(file, out, "train", use)
    mapper = DatasetMapper(
        True, augmentations=[], image_format="RGB", use_instance_mask=masks,
        instance_mask_format="bitmask",
    )  # fmt: skip
    classes = {category["id"]: category["name"] for category in file.clean["categories"]}
    for entry, image in zip(dicts, file.clean["images"], strict=True):
        found = mapper(entry)["instances"]
        expected = []
        for thing in file.left(use):
            x, y, w, h = thing["bbox"]
            sides = [min(x + w, WIDTH) - max(x, 0), min(y + h, HEIGHT) - max(y, 0)]
            if thing["image_id"] == image["id"] and not thing["iscrowd"] and min(sides) > 0:
                expected.append((classes[thing["category_id"]], [x, y, x + w, y + h]))
        labels = [names[label] for label in found.gt_classes.tolist()]
        assert list(zip(labels, found.gt_boxes.tensor.tolist())) == expected
        if masks and len(found):
            sums = found.gt_masks.tensor.sum((1, 2)).tolist()
            assert sums == [(b[2] - b[0]) * (b[3] - b[1]) for _, b in expected]


def check_run(place, seed):
    """One run; what came of it, and the seconds that a refusal took."""
    files = write_odd_annotations(place.root / f"{seed}/set", seed, most=1 + seed % 4)
    masks, job = place.job(seed)
    parts = ["val"] if job.eval_only else ["train", "val"]
    if job.eval_only:  # it takes the classes from the other file
        files["train"].path.write_text(json.dumps(files["train"].clean))
    before, out, began = below(place.root), place.root / f"{seed}/out", time.process_time()
    refused = is_refused(files, masks, parts)
    try:
        run(job)
    except InputError as error:
        assert refused, f"{files.names()}: {error}"
        assert str(error).isprintable() and below(place.root) == before
        return "refused", time.process_time() - began
    assert not refused, files.names()
    if "no list of annotations" not in files["val"].oddities:
        read(files["val"], out, "val", Use(training=False, masks=masks))
        report = json.loads((out / "coco_metrics.json").read_text())
        assert report["images"] == 3 and set(report) - {"images"} == {"bbox", *["segm"] * masks}
        assert report["bbox"]["AP"] >= 0
    if job.eval_only:
        return "evaluated", 0.0
    lines = map(json.loads, (out / "metrics.json").read_text().splitlines())
    losses = [line["total_loss"] for line in lines if "total_loss" in line]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    check_learned(files["train"], out, masks)
    return "trained and evaluated", 0.0


def close_logs():
    """Detectron2 keeps those of all runs of a process open, and writes to them all."""
    for name in ("detectron2", "fvcore"):
        handlers = logging.getLogger(name).handlers
        while handlers:
            handlers.pop().close()


def check_runs(place, seeds):
    outcomes, slowest = Counter(), 0.0
    for seed in seeds:
        close_logs()
        try:
            outcome, seconds = check_run(place, seed)
        except BaseException as error:
            raise AssertionError(f"case {seed}") from error
        outcomes[outcome] += 1
        slowest = max(slowest, seconds)
    return outcomes, slowest


def test_some(tmp_path, capsys):
    seeds = range(10, 20)  # in which each of the three comes of a file that is not ordinary
    outcomes, slowest = check_runs(Place(tmp_path), seeds)
    with capsys.disabled():
        print(f"\nodd annotation files in 10 runs with Detectron2: {dict(outcomes)}")
    assert len(outcomes) == 3 and slowest < SECONDS


@pytest.mark.sweep
def test_many(tmp_path):
    first = int(os.environ.get("WS_DET_SEED", 0))
    count = int(os.environ.get("WS_DET_RUNS", 1000))
    outcomes, slowest = check_runs(Place(tmp_path), range(first, first + count))
    print(f"seeds {first} to {first + count - 1}: {dict(outcomes)}")
    print(f"the slowest refusal took {slowest:.2f} s beyond the imports")
    assert slowest < SECONDS
