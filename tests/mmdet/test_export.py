"""tools/export_onnx.py for MMDetection. Oracle: the features before, 1e-4 of the largest value."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnxruntime

from tests.mmdet.conftest import CONFIG
from tests.mmdet.test_folding import GN, settled_model
from tools import export_onnx
from ws_det.mmdet.config import load_config
from ws_det.mmdet.preflight import build_model

NORMS = {"GN": GN, "BCN": "norm_cfg=dict(type='BCN', num_groups=8, estimate=True)"}


@pytest.mark.parametrize("norm", NORMS)
def test_backbone_and_neck(norm: str, coco_set: Path, tmp_path: Path, capsys) -> None:
    """With a batch and a size that were not traced, and heads of the classes of another set."""
    config, source, target = (tmp_path / name for name in ("tiny.py", "x.pth", "x.onnx"))
    config.write_text(CONFIG.replace(GN, NORMS[norm]))
    model = settled_model(config)
    trained = build_model(load_config(str(config), data_root=str(coco_set), parts=("test",)))
    trained.backbone.load_state_dict(model.backbone.state_dict())
    trained.neck.load_state_dict(model.neck.state_dict())
    torch.save({"state_dict": trained.state_dict()}, source)
    flags = ["--shape", "64", "96", "--data-root", str(coco_set)]
    export_onnx.main([str(config), str(source), str(target), *flags])
    assert f"wrote {target}: onnxruntime gives what torch gives" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    x = torch.randn(3, 3, 128, 64)
    got = session.run(None, {"image": x.numpy()})
    with torch.no_grad():
        expected = model.extract_feat(x)
    assert len(got) == 5
    for ours, theirs in zip(got, expected, strict=True):
        error = (torch.from_numpy(ours) - theirs).abs().max() / theirs.abs().max()
        assert error <= 1e-4


def test_what_it_refuses(tiny_config: Path, tmp_path: Path, refusal) -> None:
    """Oracle: one sentence each, and no file."""
    target = tmp_path / "x.onnx"
    said = refusal(export_onnx, tiny_config, tmp_path / "x.pth", target, "--whole")
    assert "MMDetection has no exporter for whole detectors" in said
    said = refusal(export_onnx, tiny_config, tmp_path / "x.pth", target, "--shape", "100", "64")
    assert "--shape 100 64: give multiples of 32" in said
    assert "no checkpoint at" in refusal(export_onnx, tiny_config, tmp_path / "x.pth", target)
    assert not target.exists()
