"""tools/fold_checkpoint.py for MMDetection, on a tiny Mask R-CNN.

Oracle: the detections of the model before. The stock model stands in another process, where ws_det
cannot be imported; it has the same kernels in the same convolutions, so they are equal to the bit.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import nn

from tests.mmdet.conftest import CONFIG
from tools import fold_checkpoint
from ws_det import EstBatchNorm2d
from ws_det.fold import is_folded
from ws_det.mmdet.config import load_config
from ws_det.mmdet.folding import stock_config
from ws_det.mmdet.options import parse_options
from ws_det.mmdet.preflight import build_model

GN = "norm_cfg=dict(type='GN', num_groups=8)"
NORMS = {"GN": GN, "EstBN": "norm_cfg=dict(type='EstBN')"}
FIELDS = ("bboxes", "scores", "labels", "masks")
STOCK = """
import sys
sys.modules["ws_det"] = None  # whoever imports it fails
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner import load_checkpoint
register_all_modules()
path, batch, out = sys.argv[1:]
cfg = Config.fromstring(torch.load(path, weights_only=True)["meta"]["cfg"], ".py")
model = MODELS.build(cfg.model)
load_checkpoint(model, path, strict=True)
model.eval()
with torch.no_grad():
    found = model.test_step(torch.load(batch, weights_only=False))[0].pred_instances
torch.save({field: found[field] for field in ("bboxes", "scores", "labels", "masks")}, out)
"""


def settled_model(config: Path) -> nn.Module:
    """Random weights, the norms' too, and statistics of an image."""
    torch.manual_seed(0)
    model = build_model(load_config(str(config), parts=("test",)))
    for norm in model.modules():
        if isinstance(norm, (nn.GroupNorm, nn.InstanceNorm2d)):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
        if isinstance(norm, EstBatchNorm2d):
            norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model.extract_feat(torch.randn(1, 3, 64, 96))
    model.eval()
    return model


def batch() -> dict:
    from mmdet.structures import DetDataSample

    sample = DetDataSample(
        metainfo={
            "img_shape": (64, 96), "ori_shape": (64, 96), "scale_factor": (1.0, 1.0), "img_id": 0,
        },
        gt_instances=InstanceData(),
    )  # fmt: skip
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    return {"inputs": [image], "data_samples": [sample]}


@pytest.fixture(scope="module", params=NORMS)
def case(request, tmp_path_factory):
    """A config, its checkpoint, and the model."""
    root = tmp_path_factory.mktemp("case")
    config = root / "tiny.py"
    config.write_text(CONFIG.replace(GN, NORMS[request.param]))
    model = settled_model(config)
    meta = {"dataset_meta": {"classes": ("a", "b")}, "epoch": 3, "cfg": config.read_text()}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, root / "trained.pth")
    return root, model


@pytest.fixture(scope="module")
def folded(case) -> Path:
    root, _ = case
    path = root / "folded" / "model.pth"
    fold_checkpoint.main([str(root / "tiny.py"), str(root / "trained.pth"), str(path)])
    return path


def test_stock_mmdet_detects_the_same(case, folded: Path, tmp_path: Path) -> None:
    _, model = case
    data = batch()
    torch.save(data, tmp_path / "batch.pth")
    done = subprocess.run(
        [sys.executable, "-c", STOCK, folded, tmp_path / "batch.pth", tmp_path / "out.pth"],
        env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    with torch.no_grad():
        expected = model.test_step(data)[0].pred_instances
    got = torch.load(tmp_path / "out.pth", weights_only=True)
    assert len(expected) > 0
    for field in FIELDS:
        assert torch.equal(got[field], expected[field]), field


def test_the_file(case, folded: Path) -> None:
    """Oracle: the source's meta; the mark, with which a WS convolution refuses the weights."""
    checkpoint = torch.load(folded, weights_only=True)
    meta = checkpoint["meta"]
    assert meta["ws_folded"] and meta["epoch"] == 3
    assert meta["dataset_meta"] == {"classes": ("a", "b")}
    assert "ws_det" not in meta["cfg"] and "WSConv" not in meta["cfg"]
    assert is_folded(checkpoint["state_dict"])
    with pytest.raises(RuntimeError, match="is folded and would be standardized twice"):
        settled_model(case[0] / "tiny.py").load_state_dict(checkpoint["state_dict"])


def test_the_settings(tiny_config: Path) -> None:
    """Oracle: written by hand; the config is left as it was."""
    cfg = load_config(str(tiny_config), parts=("test",))
    cfg.model.neck.norm_cfg = dict(type="EstBN", momentum=0.1)
    _, settings = stock_config(cfg)
    assert settings == [
        "model.backbone.conv_cfg=dict(type='Conv2d')",
        "model.neck.conv_cfg=dict(type='Conv2d')",
        "model.neck.norm_cfg=dict(type='BN', momentum=0.1)",
        "model.roi_head.mask_head.conv_cfg=dict(type='Conv2d')",
        "custom_imports=None",
    ]
    assert cfg.model.backbone.conv_cfg.type == "WSConv2d"


def test_what_it_refuses(tiny_config: Path, tmp_path: Path, refusal) -> None:
    """Oracle: one sentence each, and no file."""

    def saved(config: Path) -> Path:
        source = config.with_suffix(".pth")
        torch.save(settled_model(config).state_dict(), source)
        return source

    def refused(config: Path, source: Path) -> str:
        return refusal(fold_checkpoint, config, source, tmp_path / "out.pth")

    text = tiny_config.read_text()
    ws, plain, bcn = (tmp_path / f"{name}.py" for name in ("ws", "plain", "bcn"))
    ws.write_text(text)
    plain.write_text(text.replace("conv_cfg=dict(type='WSConv2d'), ", ""))
    bcn.write_text(text.replace(GN, "norm_cfg=dict(type='BCN', num_groups=8)"))
    source = saved(ws)
    assert "has no WS convolution: its checkpoint needs no folding" in refused(plain, source)
    assert "has BCN" in refused(bcn, saved(bcn))
    assert "checkpoint of another model" in refused(bcn, source)
    assert "there is no config" in refused(tmp_path / "absent.py", source)
    assert "no checkpoint at" in refused(ws, tmp_path / "absent.pth")
    state = torch.load(source, weights_only=True)
    state._metadata["backbone.conv1"]["ws_folded"] = True
    torch.save(state, source)
    assert "is folded already: use it as it is" in refused(ws, source)
    assert not (tmp_path / "out.pth").exists()


def test_what_was_trained_with_options(tiny_config: Path, coco_set: Path, tmp_path: Path) -> None:
    """Two classes and wider heads. Oracle: the file's config fits with the printed lines in it.

    MMEngine's own ``merge_from_dict`` puts them there.
    """
    options = ["--cfg-options", "model.neck.out_channels=16", "model.rpn_head.feat_channels=24"]
    flags = ["--data-root", str(coco_set), *options]
    cfg = load_config(str(tiny_config), parse_options(options[1:]), str(coco_set), parts=("test",))
    source, target = tmp_path / "trained.pth", tmp_path / "folded.pth"
    torch.save({"state_dict": build_model(cfg).state_dict()}, source)
    with redirect_stdout(io.StringIO()) as said:
        fold_checkpoint.main([str(tiny_config), str(source), str(target), *flags])
    settings = [line.strip() for line in said.getvalue().splitlines()[1:]]
    assert settings[:3] == [
        "model.rpn_head.feat_channels=24",
        "model.roi_head.bbox_head.num_classes=2",
        "model.roi_head.mask_head.num_classes=2",
    ]
    stock = Config.fromfile(str(tiny_config))
    for setting in settings:
        key, _, value = setting.partition("=")
        stock.merge_from_dict({key: eval(value)})
    state = torch.load(target, weights_only=True)["state_dict"]
    MODELS.build(stock.model).load_state_dict(state)  # raises at a key or shape that differs
