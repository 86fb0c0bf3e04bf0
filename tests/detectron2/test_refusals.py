"""Every refusal before a start: exit code 2, one line, soon, and nothing is left behind.

Oracle: all files and folders below the place of the run, before and after.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from tests.conftest import REPO
from tests.detectron2.conftest import DEMO
from tests.odd_annotations import EACH, REFUSED, WHOLE, Use
from tools import train_detectron2
from ws_det.detectron2 import train
from ws_det.detectron2.config import load_recipe

SECONDS = 5.0  # of this process, that a refusal may take beyond the imports
MODES = {"training": ["train.max_iter=1"], "resumed": ["--resume"], "evaluation": ["--eval-only"]}
USES = {"train": Use(training=True, masks=True), "val": Use(training=False, masks=True)}


def in_json(change):
    """A fault in the content of an annotation file."""

    def fault(root, part):
        path = root / f"annotations/instances_{part}2017.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return fault


def in_file(change):
    """A fault of an annotation file."""
    return lambda root, part: change(root / f"annotations/instances_{part}2017.json")


def in_image(change):
    """A fault of an image file."""
    return lambda root, part: change(root / f"{part}2017/1.jpg")


def turn(path):
    """Let a camera have noted that the photo lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)


def odd(kind, edit, whole):
    """A fault of the generator's, in each annotation or in the file."""
    chance = random.Random(kind)
    if whole:
        return in_json(lambda c: edit(c, chance))
    return in_json(lambda c: [edit(thing, chance) for thing in c["annotations"]])


SETS = {
    "no file": in_file(lambda path: path.unlink()),
    "cut file": in_file(lambda path: path.write_bytes(path.read_bytes()[:-30])),
    "a folder": in_file(lambda path: (path.unlink(), path.mkdir())),
    "a list": in_file(lambda path: path.write_text("[]")),
    "no images": in_json(lambda c: c.pop("images")),
    "no categories": in_json(lambda c: c.pop("categories")),
    "more categories": in_json(lambda c: c["categories"].append({"id": 9, "name": "disc"})),
    "no image": in_image(lambda path: path.unlink()),
    "image of text": in_image(lambda path: path.write_text("no image")),
    "image on its side": in_image(turn),
    "name that leads out": in_json(lambda c: c["images"][0].update(file_name="../1.jpg")),
    "wrong size": in_json(lambda c: c["images"][0].update(width=95)),
    "no masks": in_json(lambda c: [t.pop("segmentation") for t in c["annotations"]]),
}
ODD = {
    f"{name} ({part})": odd(name, edit, whole)
    for whole, table in ((False, EACH), (True, WHOLE))
    for name, entry in table.items()
    for edit, outcome in [entry[-2:]]
    for part, use in USES.items()
    # without a list there are predictions to make
    if outcome(use) == REFUSED and (name, part) != ("no list of annotations", "val")
}
RLE = {"size": [64, 96], "counts": [0, 64 * 96]}
POLYGONS = (
    in_json(lambda c: [thing.update(segmentation=RLE) for thing in c["annotations"]]),
    ["dataloader.train.mapper.instance_mask_format=polygon"],
)
CONFIGS = {
    "unknown option": ["train.max_iters=3"],
    "broken option": ["train.max_iter=[3"],
    "option without value": ["train.max_iter"],
    "model": ["model.module.backbone.norm=XN"],
    "classes": ["model.module.roi_heads.num_classes=7"],
    "unknown set": ["dataloader.test.dataset.names=nowhere"],
    "weights": ["train.init_checkpoint=nowhere.pth"],
    "weights of code": ["train.init_checkpoint={place}/code.pth"],
    "weights of another": ["train.init_checkpoint={place}/other.pth"],
    "folder below a file": ["train.output_dir={place}/other.pth/out"],
    "pictures below a file": ["--show-dir", "{place}/other.pth/pictures"],
    "no processes": ["--num-gpus", "0"],
    "no root": ["--data-root", "{place}/nowhere"],
    "no config": ["--config-file", "nowhere.py"],
    "broken config": ["--config-file", "{place}/broken.py"],
}
TRAINING_ALONE = {
    "accumulation": ["train.accumulation_steps=0"],
    "batch": ["dataloader.train.total_batch_size=3", "--num-gpus", "2"],
    "loss": ["train.on_nan=go"],
    "optimizer": ["optimizer.lr=fast"],
    "schedule": ["lr_multiplier.warmup_factor=slow"],
    "checkpoints": ["train.checkpointer.period=0"],
    "batch of text": ["dataloader.train.total_batch_size=two"],
    "workers": ["dataloader.train.num_workers=-1"],
    "workers of text": ["dataloader.train.num_workers=two"],
    "prefetching": ["dataloader.train.prefetch_factor=2"],
    "iterations": ["train.max_iter=-3"],
    "seed": ["train.seed=x"],
    "clipping": ["train.clip_grad.max_norm=ten"],
    "format": ["dataloader.train.mapper.image_format=XYZ"],
    "augmentation": ["dataloader.train.mapper.augmentations.0.short_edge_length=x"],
}


class Code:
    def __reduce__(self):
        return os.system, ("false",)


@pytest.fixture(scope="module")
def weights(coco_set, tmp_path_factory):
    """Those of the tiny set's detector, and others that are refused."""
    folder = tmp_path_factory.mktemp("weights")
    recipe = load_recipe(DEMO, [], str(coco_set))
    torch.save({"model": recipe.build_model().state_dict()}, folder / "good.pth")
    torch.save({"model": {"x.weight": torch.ones(3)}}, folder / "other.pth")
    (folder / "code.pth").write_bytes(pickle.dumps(Code()))
    (folder / "broken.py").write_text("model = {\n")
    return folder


class Trial:
    """Runs what must be refused, and looks what is there afterwards."""

    def __init__(self, place, weights, refusal):
        self.place, self.weights, self.refusal = place, weights, refusal
        self.seconds = {}

    def __call__(self, name, root, mode, processes, extra=()):
        for path in self.weights.iterdir():
            shutil.copy(path, self.place)
        flags = ["--config-file", DEMO, "--data-root", root, "--num-gpus", processes]
        flags += ["--show-dir", self.place / "pictures", *MODES[mode]]
        flags += [f"train.output_dir={self.place}/runs/out"]
        flags += [f"train.init_checkpoint={self.place}/good.pth"] * (mode == "evaluation")
        flags += [part.format(place=self.place) for part in extra]
        before = sorted(self.place.rglob("*"))
        began = time.process_time()
        sentence = self.refusal(train_detectron2, *flags)
        self.seconds[name, mode] = time.process_time() - began
        assert sorted(self.place.rglob("*")) == before, sentence
        assert self.seconds[name, mode] < SECONDS, sentence
        return sentence


@pytest.fixture
def trial(tmp_path, weights, refusal, monkeypatch):
    def start(*args, **kwargs):
        raise AssertionError("it was not refused")

    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(train, "launch", start)  # or what is not refused would take minutes
    return Trial(place, weights, refusal)


def cases():
    """Names, faults of which file, and options, each with the modes that read it."""
    for name, fault in (SETS | ODD).items():
        for part in USES if name in SETS else [name.rpartition("(")[2][:-1]]:
            yield f"{name} in {part}", (fault, part), (), [*MODES][: 3 if part == "val" else 2]
    yield "polygons", (POLYGONS[0], "train"), POLYGONS[1], ["training", "resumed"]
    for name, extra in (CONFIGS | TRAINING_ALONE).items():
        yield name, None, extra, [*MODES][: 3 if name in CONFIGS else 2]


def refuse_all(coco_set, trial, folder, every):
    """Each fault, in every mode that reads it or in one, with one process and two by turns."""
    bad, turns = [], 0
    for number, (name, fault, extra, modes) in enumerate(cases()):
        root = coco_set
        if fault:
            root = folder / "set"
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(coco_set, root)
            fault[0](root, fault[1])
        for mode in modes if every else [modes[number % len(modes)]]:
            turns += 1
            try:
                trial(name, root, mode, 1 + turns % 2, extra)
            except BaseException as error:
                bad.append(f"{name}, {mode}, {1 + turns % 2} processes: {error!r}"[:500])
    assert not bad, "\n".join(bad)
    return f"{turns} refusals, the slowest in {max(trial.seconds.values()):.2f} s"


def test_nothing_is_left_behind(coco_set, trial, tmp_path, capsys):
    said = refuse_all(coco_set, trial, tmp_path, every=False)
    with capsys.disabled():
        print(f"\nDetectron2: {said} beyond the imports")


@pytest.mark.sweep
def test_nothing_is_left_behind_in_any_mode(coco_set, trial, tmp_path, capsys):
    said = refuse_all(coco_set, trial, tmp_path, every=True)
    with capsys.disabled():
        print(f"\nDetectron2: {said} beyond the imports")


CODE = """
import sys, time
began = time.perf_counter()
from tools import train_detectron2
from ws_det.detectron2 import train
from ws_det.errors import run_tool
imported = time.perf_counter()
try:
    run_tool(train_detectron2.main)
finally:
    print(imported - began, time.perf_counter() - imported)
"""


def test_the_time_of_a_refusal(coco_set, tmp_path, capsys):
    """A process of its own, as a user starts it."""
    flags = ["--config-file", DEMO, "--data-root", coco_set, "--num-gpus", "2", "train.max_iter=-1"]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, flags), f"train.output_dir={tmp_path}/out"],
        cwd=REPO, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    imports, seconds = map(float, done.stdout.splitlines()[-1].split())
    with capsys.disabled():
        print(f"\nDetectron2: a refusal in {seconds:.2f} s, after imports of {imports:.1f} s")
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: train.max_iter")
    assert seconds < SECONDS and not any(tmp_path.iterdir())
