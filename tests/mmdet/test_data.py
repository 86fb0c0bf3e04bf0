"""Annotations that lead outside are refused before a start. Oracle: the sentence."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import hostile_sets
from ws_det.errors import InputError
from ws_det.mmdet.config import complete, load_config
from ws_det.mmdet.data import check_data, heads_of

DEMO = "mask-rcnn_r18_fpn_gn-ws-all_2xb1-demo_shapes"
RLE = {"size": [64, 96], "counts": "oooooooo"}  # a number that does not end


def check(coco_set: Path, root: Path, fault: Callable[[Any], Any], *options: tuple) -> None:
    shutil.copytree(coco_set, root)
    path = root / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    fault(content)
    path.write_text(json.dumps(content))
    cfg = load_config(DEMO, None, str(root))
    for key, value in options:
        cfg.train_dataloader.dataset[key] = value
    complete(cfg, "none")
    check_data(cfg, ("train", "val"))


def test_a_good_set(coco_set: Path, tmp_path: Path) -> None:
    check(coco_set, tmp_path / "set", lambda content: None)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda c: c["images"][1].update(file_name="../val2017/1.jpg"), "'../val2017/1.jpg'"),
        (lambda c: c["images"][1].update(file_name="/etc/hostname"), "'/etc/hostname'"),
        (lambda c: c["images"][1].update(file_name=["1.jpg"]), r"image \['1.jpg'\]"),
        (lambda c: c["annotations"][1].update(segmentation=RLE), "annotation 2 .* not whole"),
        (lambda c: c["annotations"][1].update(segmentation=[[1e12] * 6]), "annotation 2 "),
        (lambda c: c.update(annotations=[[]]), "no list of annotations"),
    ],
)
def test_annotations_that_lead_outside(
    coco_set: Path, tmp_path: Path, fault: Callable[[Any], Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        check(coco_set, tmp_path / "set", fault)


@pytest.mark.parametrize("url", ["/etc/hostname", "http://images.cocodataset.org/../x.jpg", None])
def test_names_of_lvis(coco_set: Path, tmp_path: Path, url: Any) -> None:
    """MMDetection takes an image of LVIS from its address, without the host."""
    kind = "type", "LVISV1Dataset"
    with pytest.raises(InputError, match="name the image"):
        check(coco_set, tmp_path / "set", lambda c: c["images"][0].update(coco_url=url), kind)


def test_hostile_annotations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is taken or ends in a sentence, before a start. See ``tests/hostile_sets.py``."""
    place, outcomes = hostile_sets.Place(tmp_path / "place"), Counter()
    cfg = load_config(DEMO)
    dataset = cfg.train_dataloader.dataset
    dataset.data_root, dataset.data_prefix = str(place.given), dict(img="images/")
    dataset.ann_file, dataset.metainfo = "truth.json", dict(classes=("bar", "box"))
    for head in heads_of(cfg.model):
        head["num_classes"] = 2
    for number in range(300):
        hostile_sets.write_truth(random.Random(f"mmdet {number}"), place)
        try:
            check_data(cfg, ("train",))
            outcomes["taken"] += 1
        except InputError as error:
            assert str(error).isprintable()
            outcomes["one sentence"] += 1
    with capsys.disabled():
        print(f"\nhostile annotations before a training with MMDetection: {dict(outcomes)}")
    assert min(outcomes.values()) > 30
