"""tools/export_onnx.py for Detectron2. Oracle: the detector before, 1e-4 of the largest value."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnxruntime
from detectron2.structures import Boxes, pairwise_iou

from tests.detectron2.test_folding import config_of, settled_model
from tools import export_onnx


@pytest.mark.parametrize("norm", ["GN", "BCN"])
def test_export(norm: str, tmp_path: Path, capsys) -> None:
    config = config_of(f"lazy-{norm}", tmp_path)
    model = settled_model(config)
    with torch.no_grad():
        for parameter in model.roi_heads.box_predictor.parameters():
            parameter *= 1e4  # as it was: nearly equal scores would leave the best 20 to rounding
    torch.save({"model": model.state_dict()}, tmp_path / "x.pth")
    for whole in ([], ["--whole"]):
        target = tmp_path / f"x{len(whole)}.onnx"
        paths = [str(path) for path in (config, tmp_path / "x.pth", target)]
        export_onnx.main([*paths, "--shape", "64", "96", *whole])
        assert f"wrote {target}: onnxruntime gives what torch" in capsys.readouterr().out

    features, detector = (
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for path in (tmp_path / "x0.onnx", tmp_path / "x1.onnx")
    )
    # a batch and a size that were not traced
    x = torch.randn(3, 3, 128, 64)
    with torch.no_grad():
        expected = model.backbone(x)
    got = features.run(list(expected), {"image": x.numpy()})
    for ours, theirs in zip(got, expected.values(), strict=True):
        error = (torch.from_numpy(ours) - theirs).abs().max() / theirs.abs().max()
        assert error <= 1e-4

    image = torch.rand(3, 128, 64) * 255
    names = [output.name for output in detector.get_outputs()]
    assert names == ["pred_boxes", "pred_classes", "pred_masks", "scores", "image_size"]
    boxes, classes, _, scores, size = detector.run(None, {"image": image.numpy()})
    with torch.no_grad():
        instances = model.inference([{"image": image}], do_postprocess=False)[0]
    assert size.tolist() == [128, 64] and len(boxes) == len(instances) > 0
    # in any order: each of the model's is there with its class, score and all but all of its box
    overlap = pairwise_iou(instances.pred_boxes, Boxes(torch.from_numpy(boxes)))
    same = instances.pred_classes[:, None] == torch.from_numpy(classes)
    near = (instances.scores[:, None] - torch.from_numpy(scores)).abs() < 1e-4
    assert ((overlap > 0.999) & same & near).any(1).all()
