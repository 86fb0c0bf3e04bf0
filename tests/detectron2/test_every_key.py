"""Each key of a Detectron2 yaml is read by a run, or a sentence says why not: none is ignored.

Oracle: a config that writes down what is asked of it, in real runs of one step and in builds of
the parts that such a run has not.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog

from tests.detectron2.test_saved_config import YAML
from tools import train_detectron2
from ws_det.detectron2.data import register_set
from ws_det.detectron2.recipe import YamlRecipe
from ws_det.detectron2.registry import add_ws_config
from ws_det.detectron2.train import Job, run

# What nothing in Detectron2 reads for a training or a test either.
OF_NOBODY = {"VERSION", "GLOBAL.HACK"}
# What Detectron2's default_setup reads from the dumped text.
OF_SETUP = {"CUDNN_BENCHMARK", "FLOAT32_PRECISION"}
RUNS = {
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml": {
        "TEST.PRECISE_BN.ENABLED": True,
        "TEST.EXPECTED_RESULTS": "[['bbox','AP',0.0,100.0]]",
        "TEST.AUG.ENABLED": True,
        "TEST.AUG.MIN_SIZES": "(32,)",
        "SOLVER.CLIP_GRADIENTS.ENABLED": True,
        "INPUT.CROP.ENABLED": True,
        "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
    },
    "COCO-Detection/retinanet_R_50_FPN_1x.yaml": {
        "MODEL.RETINANET.NUM_CLASSES": 2,
        "SOLVER.CLIP_GRADIENTS.ENABLED": True,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "norm",
    },
    "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml": {
        "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
    },
    "faster_rcnn_R_50_FPN_1x_gn_ws.yaml": {
        "CUDNN_BENCHMARK": True,
        "FLOAT32_PRECISION": "highest",
    },
}
# Whose parts need sets and files of their own: they are built, and their loaders.
BUILDS = {
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml": {},
    "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml": {},
    "COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml": {},
    "COCO-Detection/rpn_R_50_FPN_1x.yaml": {
        "MODEL.ANCHOR_GENERATOR.NAME": "RotatedAnchorGenerator",
        "MODEL.PROPOSAL_GENERATOR.NAME": "RRPN",
        "MODEL.RPN.BBOX_REG_WEIGHTS": "(1,1,1,1,1)",
        "MODEL.RPN.HEAD_NAME": "StandardRPNHead",
    },
    "COCO-Detection/retinanet_R_50_FPN_1x.yaml": {
        "SOLVER.LR_SCHEDULER_NAME": "WarmupStepWithFixedGammaLR",
        "SOLVER.WARMUP_ITERS": 0,
    },
    "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml": {
        "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": True,
        "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": True,
    },
}


class Recorded(CfgNode):
    """A config that keeps the names it was asked for, in ``seen``."""

    seen: ClassVar[set[str]] = set()

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Any:
        Recorded.seen.add(self.__dict__.get("_path", "") + name)
        return dict.__getitem__(self, name)


def recorded(cfg: CfgNode, path: str = "") -> Recorded:
    """A copy that records; ``clone()`` keeps it so."""
    copied = Recorded()
    for key, value in dict.items(cfg):
        inner = recorded(value, f"{path}{key}.") if isinstance(value, CfgNode) else value
        dict.__setitem__(copied, key, inner)
    copied.__dict__["_path"] = path
    return copied


def leaves(cfg: CfgNode, path: str = "") -> Iterator[str]:
    for key, value in dict.items(cfg):
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def test_every_key_is_read(coco_set, tmp_path, monkeypatch, caplog):
    init = YamlRecipe.__init__

    def recording(self: YamlRecipe, cfg: CfgNode) -> None:
        init(self, cfg if isinstance(cfg, Recorded) else recorded(cfg))

    monkeypatch.setattr(YamlRecipe, "__init__", recording)
    monkeypatch.setattr(Recorded, "seen", set())
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    register_set(str(coco_set), "own")
    changed = {"SOLVER.MAX_ITER": 1, "SOLVER.BASE_LR": 1e-9, "OUTPUT_DIR": f"{tmp_path}/out"}
    small = YAML | changed
    for config, more in RUNS.items():
        path = model_zoo.get_config_file(config) if "/" in config else config
        run(Job(path, tuple(f"{key}={value}" for key, value in (small | more).items())))
    assert torch.backends.cudnn.benchmark
    assert "Set fp32 precision to highest" in (tmp_path / "out/log.txt").read_text()
    register_keypoints(coco_set, tmp_path)
    for config, more in BUILDS.items():
        cfg = get_cfg()
        add_ws_config(cfg)
        cfg.merge_from_file(model_zoo.get_config_file(config))
        settings = small | {"DATASETS.TRAIN": "('points_train',)"} | more
        cfg.merge_from_list([part for item in settings.items() for part in item])
        files = (str(write_proposals(tmp_path / "proposals.pkl")),)
        cfg.DATASETS.PROPOSAL_FILES_TRAIN = cfg.DATASETS.PROPOSAL_FILES_TEST = files
        cfg.MODEL.DEVICE = "cpu"
        recipe = YamlRecipe(cfg)
        recipe.build_schedule(recipe.build_optimizer(recipe.build_model()))
        recipe.build_train_loader(0, 0)
        recipe.build_test_loader("own_val")
    keys = {*leaves(recipe.cfg)}
    unread = keys - Recorded.seen
    print(f"{len(keys)} keys, {len(keys - unread)} read, not read: {sorted(unread)}")
    assert unread == OF_NOBODY | OF_SETUP


def write_proposals(path, images=6):
    """Two proposals for each image, as Detectron2 reads them."""
    boxes = np.array([[1, 2, 30, 40], [5, 5, 60, 50]], np.float32)
    scores = np.array([0.1, 0.9], np.float32)
    content = {"ids": [*range(1, images + 1)], "bbox_mode": 0}
    content |= {"boxes": [boxes] * images, "objectness_logits": [scores] * images}
    path.write_bytes(pickle.dumps(content))
    return path


def register_keypoints(coco_set, tmp_path):
    """The set with two points an object."""
    root = tmp_path / "points"
    shutil.copytree(coco_set, root)
    path = root / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    for thing in content["annotations"]:
        thing["keypoints"], thing["num_keypoints"] = [5, 5, 2, 9, 9, 2], 2
    for category in content["categories"]:
        category["keypoints"], category["skeleton"] = ["a", "b"], []
    path.write_text(json.dumps(content))
    register_set(str(root), "points")
    counts = [{"id": number, "image_count": 3} for number in (1, 2)]  # as LVIS has them
    metadata = MetadataCatalog.get("points_train")
    metadata.set(keypoint_names=["a", "b"], keypoint_flip_map=[], class_image_count=counts)


def test_proposals(coco_set, tmp_path, refusal):
    """A run with them, and files that are none. Oracle: what was left out of each."""
    register_set(str(coco_set), "own")
    path = write_proposals(tmp_path / "p.pkl")
    config = model_zoo.get_config_file("COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml")

    def options(files, folder):
        more = {"SOLVER.MAX_ITER": 1, "SOLVER.BASE_LR": 1e-9, "OUTPUT_DIR": folder}
        more |= {f"DATASETS.PROPOSAL_FILES_{part}": repr(files) for part in ("TRAIN", "TEST")}
        return tuple(f"{key}={value}" for key, value in (YAML | more).items())

    run(Job(config, options((str(path),), tmp_path / "out")))
    assert (tmp_path / "out/coco_metrics.json").is_file()
    short = str(write_proposals(tmp_path / "short.pkl", images=5))
    (tmp_path / "none.pkl").write_bytes(pickle.dumps({"ids": [1]}))
    (tmp_path / "code.pkl").write_bytes(pickle.dumps({"ids": print}))
    for files, reason in (
        ((), "has 0 for 1"),
        ((f"{tmp_path}/x.pkl",), "no file of proposals"),
        ((short,), "no proposals for the image 6 of own_train"),
        ((f"{tmp_path}/none.pkl",), "none.pkl has no proposals"),
        ((f"{tmp_path}/code.pkl",), "holds more than"),
    ):
        given = options(files, tmp_path / "refused")
        assert reason in refusal(train_detectron2, "--config-file", config, *given)
        assert not (tmp_path / "refused").exists()
