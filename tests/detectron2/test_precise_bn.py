"""TEST.PRECISE_BN. Oracle: fvcore's update_bn_stats on the weights of a run without it."""

from __future__ import annotations

import shutil
from itertools import islice

import pytest
import torch
from detectron2.utils.events import EventStorage
from fvcore.nn.precise_bn import update_bn_stats

from tests.detectron2.test_saved_config import YAML, final
from tests.detectron2.test_train import assert_same
from tools import train_detectron2
from ws_det.detectron2.config import load_recipe
from ws_det.detectron2.data import register_set
from ws_det.detectron2.train import Job, run

CONFIG = "faster_rcnn_R_50_FPN_1x_gn_ws.yaml"
BATCHES = 3
NORMS = {"BN": ("BN", "BN"), "BCN": ("BCN", "BN"), "GN": ("GN", "GN")}


def options(norms, folder, **more):
    backbone, fpn = NORMS[norms]
    settings = YAML | {
        "MODEL.RESNETS.NORM": backbone,
        "MODEL.FPN.NORM": fpn,
        "MODEL.ROI_BOX_HEAD.NORM": "GN",
        "SEED": 3,
        "SOLVER.BASE_LR": 0.001,
        "TEST.EVAL_PERIOD": 2,
        "TEST.PRECISE_BN.NUM_ITER": BATCHES,
        "OUTPUT_DIR": folder,
    }
    return tuple(f"{key}={value}" for key, value in (settings | more).items())


@pytest.fixture(autouse=True)
def own_set(coco_set):
    register_set(str(coco_set), "own")


@pytest.mark.parametrize("norms", ["BCN", pytest.param("BN", marks=pytest.mark.sweep)])
def test_statistics_are_those_of_fvcore(norms, tmp_path):
    """Weights and estimates as without, statistics of batch norms as fvcore's."""
    run(Job(CONFIG, options(norms, tmp_path / "plain")))
    precise = options(norms, tmp_path / "precise", **{"TEST.PRECISE_BN.ENABLED": True})
    run(Job(CONFIG, precise))
    plain, found = final(tmp_path / "plain")["model"], final(tmp_path / "precise")["model"]
    recipe = load_recipe(CONFIG, precise)
    model = recipe.build_model()
    model.load_state_dict(plain)
    model.train()
    estimates = [m for m in model.modules() if type(m).__name__ == "EstBatchNorm2d"]
    assert len(estimates) == (53 if norms == "BCN" else 0)
    for layer in estimates:
        layer.eval()
    batches = [*islice(recipe.build_train_loader(3, 0), BATCHES)]
    with EventStorage():
        update_bn_stats(model, batches, BATCHES)
    changed = 0
    for key, value in model.state_dict().items():
        if "num_batches" not in key:
            assert torch.equal(found[key], value), key
            changed += not torch.equal(plain[key], value)
    assert changed == 2 * (8 if norms == "BCN" else 61)


def test_resume(tmp_path):
    """Oracle: the run that never stopped."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    precise = {"TEST.PRECISE_BN.ENABLED": True}
    run(Job(CONFIG, options("BN", whole, **precise)))
    resumed.mkdir()
    for name in ("model_0000001.pth", "curves.json"):
        shutil.copy(whole / name, resumed)
    (resumed / "last_checkpoint").write_text("model_0000001.pth")
    run(Job(CONFIG, options("BN", resumed, **precise), resume=True))
    assert_same(final(whole), final(resumed))


def test_without_batch_norm_it_warns(tmp_path):
    more = {"TEST.PRECISE_BN.ENABLED": True, "SOLVER.MAX_ITER": 1}
    run(Job(CONFIG, options("GN", tmp_path / "out", **more)))
    assert "TEST.PRECISE_BN.ENABLED has no effect" in (tmp_path / "out/log.txt").read_text()


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"TEST.PRECISE_BN.ENABLED": True, "TEST.PRECISE_BN.NUM_ITER": 0}, "NUM_ITER=0"),
        ({"TEST.EXPECTED_RESULTS": "[['bbox','AP',1]]"}, "task, metric, value and tolerance"),
        ({"SOLVER.LR_SCHEDULER_NAME": "WarmupStepWithFixedGammaLR"}, "its schedule cannot be"),
        ({"SOLVER.LR_SCHEDULER_NAME": "Cosine"}, "Unknown LR scheduler: Cosine"),
        ({"TEST.EXPECTED_RESULTS": "[3]"}, "task, metric, value and tolerance"),
    ],
)
def test_refused(option, reason, refusal, tmp_path):
    out = tmp_path / "out"
    given = options("GN", out, **option)
    assert reason in refusal(train_detectron2, "--config-file", CONFIG, *given)
    assert not out.exists()


@pytest.mark.parametrize("expected", [0.0, 50.0])
def test_expected_results(expected, refusal, tmp_path):
    """A run too short to find anything has an AP of 0."""
    more = {"SOLVER.MAX_ITER": 1, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.9}
    more["TEST.EXPECTED_RESULTS"] = f"[['bbox','AP',{expected},0.5]]"
    given = ("--config-file", CONFIG, *options("GN", tmp_path / "out", **more))
    if expected:
        with pytest.raises(SystemExit) as ended:
            train_detectron2.run_tool(lambda: train_detectron2.main([*map(str, given)]))
        assert ended.value.code == 2
    else:
        train_detectron2.main([*map(str, given)])
    log = (tmp_path / "out/log.txt").read_text()
    assert ("Results verification passed" in log) == (not expected)
