"""Bad input to the tool: exit code 2, one sentence, and no output folder."""

from __future__ import annotations

import pickle
import re
import shutil

import numpy as np
import pytest
import torch

from tests.detectron2.conftest import DEMO
from tools import train_detectron2
from ws_det.detectron2.config import load_recipe

YAML = "mask_rcnn_R_50_FPN_3x_gn_ws.yaml"


@pytest.fixture
def refuse(refusal, coco_set, tmp_path):
    """Run the tool on the tiny set; it must refuse and leave no output folder."""

    def run(*arguments, config=DEMO, root=coco_set, warnings=0):
        output = ("OUTPUT_DIR=" if str(config).endswith("yaml") else "train.output_dir=") + str(
            tmp_path / "out"
        )
        flags = ["--config-file", config, "--data-root", root, output, *arguments]
        sentence = refusal(train_detectron2, *flags, warnings=warnings)
        assert not (tmp_path / "out").exists()
        return sentence

    return run


def test_batch_that_does_not_divide(refuse):
    assert "2 images does not divide among 3 processes" in refuse("--num-gpus", 3)
    assert "SOLVER.IMS_PER_BATCH" in refuse("--num-gpus", 3, config=YAML)


def test_no_process(refuse):
    assert "--num-gpus 0: give at least 1" in refuse("--num-gpus", 0)


def test_no_accumulation(refuse):
    assert "accumulation over 0 steps" in refuse("train.accumulation_steps=0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which has AMP")
def test_amp_without_gpu(refuse):
    assert "needs a GPU: leave out train.amp.enabled=True" in refuse("train.amp.enabled=True")


def test_unwritable_folder(refuse, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refuse(f"train.output_dir={tmp_path}/file/out")


def test_missing_image(refuse, coco_set, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(coco_set, root)
    (root / "train2017/2.jpg").unlink()
    assert "2.jpg" in refuse(root=root)


def test_damaged_annotations(refuse, coco_set, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(coco_set, root)
    path = root / "annotations/instances_val2017.json"
    path.write_text(path.read_text()[:-20])
    assert "instances_val2017.json is truncated or no JSON" in refuse(root=root)


@pytest.mark.parametrize(
    ("config", "option", "values"),
    [
        (YAML, "MODEL.RESNETS.NORM=BCNN", ("BCNN", "'BCN'")),
        (YAML, "MODEL.WS.NUM_GROUPS=24", ("24", "64")),
        (YAML, "MODEL.ROI_BOX_HEAD.NORM=XN", ("XN",)),
        (YAML, "MODEL.BACKBONE.NAME=build_nothing", ("build_nothing",)),
        (DEMO, "model.module.backbone.norm=XN", ("XN",)),
    ],
)
def test_model_that_cannot_be_built(refuse, config, option, values):
    sentence = refuse(option, config=config)
    assert all(value in sentence for value in values), sentence


def test_backbone_without_ws(refuse, tmp_path):
    """Nothing in it is followed by a norm, so nothing can be WS."""
    sentence = refuse("MODEL.RESNETS.NORM=", "MODEL.FPN.NORM=", config=YAML)
    assert "norm" in sentence


def test_weights(refuse, tmp_path):
    assert "no checkpoint at nowhere.pth" in refuse("train.init_checkpoint=nowhere.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut")
    assert "truncated" in refuse(f"train.init_checkpoint={tmp_path}/cut.pth")
    torch.save({"model": {"x.weight": torch.ones(3)}}, tmp_path / "other.pth")
    assert "of another model" in refuse(f"train.init_checkpoint={tmp_path}/other.pth")
    assert "of another model" in refuse(
        "--eval-only", f"train.init_checkpoint={tmp_path}/other.pth"
    )
    assert "no weights to evaluate: give train.init_checkpoint=FILE" in refuse("--eval-only")


def test_weights_of_other_norms(refuse, tmp_path, coco_set):
    """A GN backbone whose kernels' means were trained. Oracle: the means were put there."""
    model = load_recipe(DEMO, [], str(coco_set)).build_model()
    state = model.state_dict()
    for key, value in state.items():
        if value.ndim == 4:
            state[key] = value + 0.5 * value.std()
    torch.save({"model": state}, tmp_path / "gn.pth")
    sentence = refuse(f"train.init_checkpoint={tmp_path}/gn.pth")
    assert "trained with GN without WS" in sentence and "train.init_checkpoint" in sentence
    assert sentence.endswith("or go on with --force")
    # forced, it warns, and the next fault is what stops it
    for key in [key for key in state if "roi_heads" in key]:
        del state[key]
    torch.save({"model": state}, tmp_path / "gn.pth")
    assert "of another model" in refuse(
        "--force", "--eval-only", f"train.init_checkpoint={tmp_path}/gn.pth", warnings=1
    )


def test_pickled_weights_of_other_norms(refuse, tmp_path):
    """Caffe2's names are matched to the model's later; its batch norms show in them."""
    blobs = {"conv1_w": np.zeros((8, 3, 7, 7), np.float32), "res_conv1_bn_s": np.ones(8)}
    (tmp_path / "R.pkl").write_bytes(pickle.dumps({"blobs": blobs}))
    assert "are BN weights" in refuse(f"train.init_checkpoint={tmp_path}/R.pkl")
    (tmp_path / "R.pkl").write_bytes(pickle.dumps(blobs)[:-9])
    assert "truncated" in refuse(f"train.init_checkpoint={tmp_path}/R.pkl")


@pytest.mark.parametrize("where", [("--num-gpus", 2), ("dataloader.train.num_workers=1",)])
def test_damaged_image_is_one_sentence(refusal, coco_set, tmp_path, where):
    """It shows only while training, in a spawned process, or in a worker of one process.

    Oracle: the name of a broken file.
    """
    root = tmp_path / "set"
    shutil.copytree(coco_set, root)
    for path in root.glob("train2017/[1-9].jpg"):
        path.write_bytes(path.read_bytes()[:700])
    flags = ["--config-file", DEMO, "--data-root", root, *where, "--dist-url", "auto"]
    sentence = refusal(train_detectron2, *flags, f"train.output_dir={tmp_path / 'out'}")
    words = r"error: the image \S+[1-9]\.jpg cannot be read \(.*\): replace it"
    assert re.fullmatch(words, sentence), sentence
    assert (tmp_path / "out").exists()


def test_a_damaged_first_image_is_found_before_the_start(refuse, coco_set, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(coco_set, root)
    path = root / "train2017/0.jpg"
    path.write_bytes(path.read_bytes()[:700])
    assert "0.jpg cannot be read" in refuse(root=root)
