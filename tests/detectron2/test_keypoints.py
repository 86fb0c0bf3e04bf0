"""Keypoint sets with nothing but a file. Oracles: the names in it, and Detectron2's own flip."""

from __future__ import annotations

import json
import math
import shutil

import pytest
from detectron2.config import LazyCall
from detectron2.data import transforms as T

from tests.detectron2.conftest import DEMO
from tests.detectron2.parts import TINY
from ws_det.detectron2.config import load_recipe
from ws_det.detectron2.copies import registered_anew, write_copies
from ws_det.detectron2.data import check_sets
from ws_det.detectron2.train import Job, run
from ws_det.errors import InputError

NAMES = ["left_end", "middle", "right_end"]
YAML = "faster_rcnn_R_50_FPN_1x_gn_ws.yaml"
OPTIONS = TINY | {
    "MODEL.KEYPOINT_ON": True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 3,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": (8,), "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": 1,
    "MODEL.WEIGHTS": "", "MODEL.BACKBONE.FREEZE_AT": 0, "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.MAX_ITER": 2, "SOLVER.STEPS": (), "TEST.EVAL_PERIOD": 0, "DATALOADER.NUM_WORKERS": 0,
    "INPUT.MIN_SIZE_TRAIN": (64,), "INPUT.MIN_SIZE_TEST": 64,
}  # fmt: skip
del OPTIONS["MODEL.ROI_HEADS.NUM_CLASSES"]


@pytest.fixture
def root(coco_set, tmp_path):
    """The left, middle and right of each box; the first object of each file has none."""
    root = shutil.copytree(coco_set, tmp_path / "set")
    for path in root.glob("annotations/*.json"):
        content = json.loads(path.read_text())
        for category in content["categories"]:
            category["keypoints"] = NAMES
        for thing in content["annotations"][1:]:
            x, y, w, h = thing["bbox"]
            points = [(x, y + h // 2, 2), (x + w // 2, y + h // 2, 2), (x + w - 1, y + h // 2, 2)]
            thing.update(keypoints=[v for p in points for v in p], num_keypoints=3)
        path.write_text(json.dumps(content))
    return root


def edit(root, change):
    for path in root.glob("annotations/*.json"):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


def job(root, out, **changes):
    options = {**OPTIONS, "OUTPUT_DIR": str(out), **changes}
    return Job(YAML, tuple(f"{key}={value}" for key, value in options.items()), str(root))


def test_the_file_names_them(root, tmp_path):
    run(job(root, tmp_path / "out"))
    lines = map(json.loads, (tmp_path / "out/metrics.json").read_text().splitlines())
    losses = [line["loss_keypoint"] for line in lines if "loss_keypoint" in line]
    assert losses and all(math.isfinite(loss) and loss > 0 for loss in losses)
    log = (tmp_path / "out/log.txt").read_text()
    assert "gave invisible keypoints to 1 annotation without any" in log


@pytest.mark.parametrize("lazy", [True, False])
def test_a_flip_swaps_left_and_right(root, tmp_path, lazy):
    """Oracle: the boxes: after a flip the left end is the left end of the box again."""
    if lazy:
        recipe = load_recipe(DEMO, ["dataloader.train.total_batch_size=1"], str(root))
        mapper = recipe.cfg.dataloader.train.mapper
        mapper.update(use_keypoint=True, use_instance_mask=False, keypoint_hflip_indices=[0, 1, 2])
        mapper.augmentations = [LazyCall(T.RandomFlip)(prob=1.0)]
        wants = recipe.wants()._replace(masks=False, keypoints=True, num_keypoints=3)
    else:
        recipe = load_recipe(YAML, job(root, tmp_path).options, str(root))
        wants = recipe.wants()
    assert wants.keypoints and wants.num_keypoints == 3
    with registered_anew(write_copies(check_sets(recipe.train_sets, [2], wants), str(tmp_path))):
        stream = iter(recipe.build_train_loader(0, 0))
        found = [next(stream)[0]["instances"] for _ in range(6)]
    for instances in found:
        for box, points in zip(instances.gt_boxes.tensor, instances.gt_keypoints.tensor):
            if points[:, 2].any():
                assert points[0, 0] < points[1, 0] < points[2, 0]
                assert box[0] <= points[0, 0] and points[2, 0] <= box[2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["categories"][0].pop("keypoints") and c["categories"][1].pop("keypoints"),
         "does not name them: give its categories a list 'keypoints'"),
        (lambda c: c["categories"][0].update(keypoints=["a", "b", "c"]), "the same one"),
        (lambda c: c["categories"].__setitem__(slice(None), [
            k | {"keypoints": ["left_end", "middle", "end"]} for k in c["categories"]]),
         "'left_end' of .* has no 'right_end'"),
        (lambda c: c["annotations"][3].update(keypoints=[1, 2, 3]), "of 3 keypoints: correct it"),
        (lambda c: [t.pop("keypoints", 0) for t in c["annotations"]], "a config of boxes"),
        (lambda c: [k.update(keypoints=["a", "b"]) for k in c["categories"]],
         r"finds 3 keypoints and data_root_train has 2: .*NUM_KEYPOINTS 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_known_is_refused(root, tmp_path, change, words):
    edit(root, change)
    with pytest.raises(InputError, match=words):
        run(job(root, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["leftEye", "rightEye", "bright"], [("leftEye", "rightEye")]),
        (["eye-right", "eye-left", "nose"], [("eye-right", "eye-left")]),
        (["LeftEye", "RightEye", "cleft"], [("LeftEye", "RightEye")]),
        (["a", "b", "c"], []),
    ],
)
def test_sides(root, names, pairs):
    edit(root, lambda c: [k.update(keypoints=names) for k in c["categories"]])
    recipe = load_recipe(YAML, job(root, "out").options, str(root))
    found = check_sets(recipe.train_sets, [2], recipe.wants())
    assert found.metadata["data_root_train"]["keypoint_flip_map"] == pairs
