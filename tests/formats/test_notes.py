"""What the notes say. Oracles: the projects' own defaults, where they can be asked."""

from __future__ import annotations

import pytest
import torch

from ws_det.formats import convert_state

KERNEL = torch.zeros(2, 2, 1, 1)
JHU_DETECTOR = {
    "backbone.body.stem.conv1.weight": KERNEL,
    "roi_heads.box.predictor.cls_score.weight": torch.zeros(3, 2),
}


def notes(state: dict[str, torch.Tensor], to: str) -> str:
    return "\n".join(convert_state(state, to).notes)


def test_images_of_imagenet_weights() -> None:
    """Oracle: MMDetection's data_preprocessor, and torchvision's transform, of all its ResNets."""
    released = {"layer1.0.conv1.weight": KERNEL, "layer1.0.bn1.weight": torch.zeros(2)}
    said = notes(released, "mmdet")
    assert "bgr_to_rgb=True, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]" in said
    assert "INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [123.675," in notes(released, "detectron2")
    said = notes(released, "torchvision")
    torchvision = pytest.importorskip("torchvision.models", reason="needs torchvision")
    transform = torchvision.ResNet50_Weights.DEFAULT.transforms()
    assert f"mean {transform.mean}, deviation {transform.std}" in said


def test_images_and_boxes_of_the_authors_detectors() -> None:
    """Oracle: the defaults of maskrcnn-benchmark (INPUT in its defaults.py)."""
    said = notes(JHU_DETECTOR, "mmdet")
    assert "bgr_to_rgb=False, mean=[102.9801, 115.9465, 122.7717], std=[1.0, 1.0, 1.0]" in said
    assert "LegacyAnchorGenerator" in said


def test_images_of_bit() -> None:
    """Oracle: big_transfer normalizes to -1..1."""
    state = {"resnet/root_block/standardized_conv2d/kernel": torch.zeros(7, 7, 3, 8)}
    assert "RGB of 0..1, mean [0.5, 0.5, 0.5], deviation [0.5, 0.5, 0.5]" in notes(state, "timm")


def test_what_is_not_known_is_to_be_copied() -> None:
    said = notes({"backbone.layer1.0.conv1.weight": KERNEL}, "detectron2")
    assert "copy bgr_to_rgb, mean and std" in said and "MODEL.PIXEL_MEAN" in said
    assert "style='pytorch' and MODEL.RESNETS.STRIDE_IN_1X1 False" in said


def test_kernels_trained_with_ws_need_it() -> None:
    """Oracle: filters without a mean and with a rank, which training with WS leaves behind."""
    kernel = torch.randn(64, 1) @ torch.randn(1, 64 * 9) + 0.1 * torch.randn(64, 64 * 9)
    kernel -= kernel.mean(1, keepdim=True)
    state = {
        "layer1.0.conv2.weight": kernel.view(64, 64, 3, 3),
        "layer1.0.gn2.weight": torch.ones(64),
    }
    assert "conv_cfg" not in notes(state, "detectron2")
    assert "convert_to_ws around the model" in notes(state, "detectron2")
    assert "ws_det.convert_to_ws(model)" in notes(state, "timm")
    plain = state | {"layer1.0.conv2.weight": kernel.view(64, 64, 3, 3) + 1}
    assert "WS" not in notes(plain, "timm")
