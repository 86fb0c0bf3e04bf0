"""tools/fold_checkpoint.py for Detectron2, on tiny detectors, lazy and yaml.

Oracle: the detections of the model before. The stock model stands in another process, where ws_det
cannot be imported; it has the same kernels in the same convolutions, so they are equal to the bit.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stdout
from functools import partial
from operator import attrgetter
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from torch import nn

from tests.detectron2.parts import TINY, yaml_config
from tools import fold_checkpoint
from ws_det import EstBatchNorm2d, InputError
from ws_det.detectron2.config import load_recipe
from ws_det.detectron2.folding import stock_config
from ws_det.fold import is_folded
from ws_det.stock import check_equal

FIELDS = ("boxes", "scores", "classes", "masks")
DEMO = "mask_rcnn_R_18_FPN_gn_ws_demo_shapes"
LAZY = f"""
from detectron2.config import LazyCall as L, LazyConfig

import ws_det
from ws_det import convert_to_ws
from ws_det.detectron2 import get_norm

cfg = LazyConfig.load(ws_det.config_path({DEMO!r}))
dataloader, lr_multiplier, model, optimizer, train = (
    cfg[key] for key in ("dataloader", "lr_multiplier", "model", "optimizer", "train")
)
model.module.backbone.norm = get_norm({{norm!r}}, num_groups={{groups}})
model.module.roi_heads.box_predictor.test_score_thresh = -1.0
"""
# The user's own model, without ws_det
STOCK = """
import sys
sys.modules["ws_det"] = None  # whoever imports it fails
from functools import partial
from operator import attrgetter
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall as L, LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
path, config, batch, out = sys.argv[1:]
if config.endswith("lazy.yaml"):
    model = instantiate(LazyConfig.load(config).model)
else:
    cfg = get_cfg()
    cfg.merge_from_file(config)
    model = build_model(cfg)
left = DetectionCheckpointer(model).load(path)
assert left.keys() <= {"__author__", "ws_folded", "matching_heuristics"}, left
with torch.no_grad():
    found = model.eval()(torch.load(batch))[0]["instances"]
torch.save({"boxes": found.pred_boxes.tensor, "scores": found.scores,
            "classes": found.pred_classes, "masks": found.pred_masks}, out)
"""


def config_of(kind: str, root: Path, groups: int = 8) -> Path:
    """Of ``lazy-NORM`` or ``yaml-NORM``."""
    form, norm = kind.split("-")
    path = root / f"{form}.{'py' if form == 'lazy' else 'yaml'}"
    if form == "lazy":
        path.write_text(LAZY.format(norm=norm, groups=groups))
    else:
        options = {"MODEL.WS.NUM_GROUPS": groups, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": -1.0}
        path.write_text(yaml_config(norm, TINY | options).dump())
    return path


def stock_of(config: Path, settings: list[str]) -> Path:
    """The config without ws_det, by the settings that the tool prints."""
    path = config.with_name(f"stock-{config.stem}.yaml")
    if config.suffix == ".py":
        cfg = LazyConfig.load(str(config))
        for setting in settings:
            exec(
                setting.replace("model", "cfg.model"),
                {"cfg": cfg, "partial": partial, "torch": torch},
            )
        LazyConfig.save(cfg, str(path))
        return path
    cfg = CfgNode(CfgNode.load_yaml_with_base(str(config)))
    for setting in settings:
        if setting.startswith("without "):
            *parents, last = setting.removeprefix("without ").split(".")
            del attrgetter(".".join(parents))(cfg)[last]
        else:
            cfg.merge_from_list(setting.split())
    path.write_text(cfg.dump())
    return path


def settled_model(config: Path) -> nn.Module:
    """Random weights, the norms' too, and statistics of an image."""
    torch.manual_seed(0)
    model = load_recipe(str(config)).build_model()
    for norm in model.modules():
        if isinstance(norm, (nn.GroupNorm, nn.InstanceNorm2d)):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
        if isinstance(norm, EstBatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        model.backbone.train()(torch.randn(1, 3, 64, 96))
        for parameter in model.roi_heads.box_predictor.parameters():
            parameter *= 1e-4  # of large features: no score is 0 or 1
    return model.eval()


def printed(config: Path, source: Path, target: Path, *flags: str) -> list[str]:
    """Fold by the tool; the settings that it prints."""
    with redirect_stdout(io.StringIO()) as said:
        fold_checkpoint.main([str(config), str(source), str(target), *flags])
    first, *settings = said.getvalue().splitlines()
    assert first == f"wrote {target}, which needs no ws_det; in the config:"
    return [setting.strip() for setting in settings]


@pytest.mark.parametrize("kind", ["lazy-GN", "lazy-EstBN", "yaml-EstBN"])
def test_stock_detectron2_detects_the_same(kind: str, tmp_path: Path) -> None:
    config, folded = config_of(kind, tmp_path), tmp_path / "folded.pth"
    model = settled_model(config)
    torch.save({"model": model.state_dict(), "iteration": 3}, tmp_path / "trained.pth")
    settings = printed(config, tmp_path / "trained.pth", folded)
    assert is_folded(torch.load(folded, weights_only=True)["model"])
    batch = [{"image": torch.rand(3, 64, 96) * 255, "height": 64, "width": 96}]
    torch.save(batch, tmp_path / "batch.pth")
    paths = (folded, stock_of(config, settings), tmp_path / "batch.pth", tmp_path / "out.pth")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STOCK, *paths],
        env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    with torch.no_grad():
        found = model(batch)[0]["instances"]
    expected = (found.pred_boxes.tensor, found.scores, found.pred_classes, found.pred_masks)
    got = torch.load(tmp_path / "out.pth", weights_only=True)
    assert len(found) > 0
    for field, tensor in zip(FIELDS, expected, strict=True):
        assert torch.equal(got[field], tensor), field


@pytest.mark.parametrize("kind", ["lazy-GN", "yaml-EstBN"])
def test_what_was_trained_with_options(kind: str, coco_set: Path, tmp_path: Path) -> None:
    """Two classes and another head. Oracle: the config fits with the printed lines in it."""
    config, target = config_of(kind, tmp_path), tmp_path / "folded.pth"
    lazy = kind.startswith("lazy")
    options = (
        ["model.module.roi_heads.mask_head.conv_dims=[16,24]", "train.seed=3"]
        if lazy
        else ["MODEL.FPN.OUT_CHANNELS=24", "SEED=3"]
    )
    model = load_recipe(str(config), options, str(coco_set)).build_model()
    torch.save({"model": model.state_dict()}, tmp_path / "trained.pth")
    flags = ["--data-root", str(coco_set), "--cfg-options", *options]
    settings = printed(config, tmp_path / "trained.pth", target, *flags)
    assert sum("num_classes" in setting.lower() for setting in settings) == (1 if lazy else 2)
    assert not any("seed" in setting.lower() for setting in settings)
    stock = stock_of(config, settings)
    if lazy:
        built = instantiate(LazyConfig.load(str(stock)).model)
    else:
        cfg = get_cfg()
        cfg.merge_from_file(str(stock))
        built = build_model(cfg)
    built.load_state_dict(torch.load(target, weights_only=True)["model"])  # or raises


def test_what_it_refuses(tmp_path: Path, refusal) -> None:
    """Oracle: one sentence each, and no file. A yaml's own GN has 32 groups and no other number."""
    for kind, saying in (
        ("yaml-GN", "num_channels (8) must be divisible by num_groups (32)"),
        ("yaml-BCN", "has BCN, which no layer of the framework computes"),
    ):
        config = config_of(kind, tmp_path)
        source, target = tmp_path / "trained.pth", tmp_path / "out.pth"
        torch.save({"model": settled_model(config).state_dict()}, source)
        assert saying in refusal(fold_checkpoint, config, source, target)
    state = torch.load(source, weights_only=True)["model"]
    next(iter(state._metadata.values()))["ws_folded"] = True
    torch.save({"model": state}, source)
    assert "is folded already: use it as it is" in refusal(fold_checkpoint, config, source, target)
    assert not target.exists()


def test_layers_with_other_options_are_refused() -> None:
    """The same keys and shapes, and yet another model: oracle, the option that differs."""
    folded, stock = (nn.Sequential(nn.GroupNorm(groups, 64)) for groups in (8, 32))
    with pytest.raises(InputError, match=r"GroupNorm\(8, 64.*\) is GroupNorm\(32, 64"):
        check_equal(folded, lambda: stock, folded.state_dict())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mask_rcnn_R_50_FPN_3x_gn_ws.py", ["model = model.module"]),
        (
            "retinanet_R_50_FPN_1x_gn_ws.yaml",
            [
                "MODEL.BACKBONE.NAME build_retinanet_resnet_fpn_backbone",
                "MODEL.META_ARCHITECTURE RetinaNet",
                "without MODEL.WS",
                "without SOLVER.ACCUMULATION_STEPS",
            ],
        ),
        (
            "mask_rcnn_R_50_FPN_3x_gn_ws.yaml",
            [
                "MODEL.BACKBONE.NAME build_resnet_fpn_backbone",
                "MODEL.ROI_BOX_HEAD.NAME FastRCNNConvFCHead",
                "MODEL.ROI_MASK_HEAD.NAME MaskRCNNConvUpsampleHead",
                "without MODEL.WS",
                "without SOLVER.ACCUMULATION_STEPS",
            ],
        ),
    ],
)
def test_the_settings_of_supplied_configs(name: str, expected: list[str]) -> None:
    """Oracle: written by hand."""
    _, settings = stock_config(load_recipe(name))
    # our own keys grow in number
    without = {setting for setting in settings if setting.startswith("without SOLVER")}
    assert sorted({*settings} - without | {*expected} & without) == sorted(expected)
