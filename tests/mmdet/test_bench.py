"""The training step that is timed. Oracle: MMDetection's models, mmcv's layers, and each other."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="needs MMDetection")

from mmcv.cnn.bricks.conv_ws import ConvAWS2d, ConvWS2d
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn

from tools import benchmark
from ws_det import WSConv2d, config_path, standardize_weight
from ws_det.bench.model import mask_rcnn_kernels
from ws_det.mmdet import bench

SIZE = (64, 96)


def test_kernels_are_those_of_the_config() -> None:
    """Oracle: the model that MMDetection builds from our config."""
    cfg = Config.fromfile(config_path("mask-rcnn_r50_fpn_gn-ws-all_2x_coco"))
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    kernels = [m.weight.shape for m in model.modules() if isinstance(m, WSConv2d)]
    assert Counter(kernels) == Counter(mask_rcnn_kernels())


@pytest.mark.parametrize("peer", bench.mmcv_peers(), ids=lambda peer: peer.name)
def test_mmcv_peers_are_mmcv_and_compute_ours(peer: bench.Peer) -> None:
    """Oracles: mmcv's layer on an image, and ws_det's formula; float64."""
    layer = {"ws": ConvWS2d, "bcn": ConvAWS2d}[peer.formula](3, 6, 3, bias=False).double()
    image = torch.randn(1, 3, 5, 5, dtype=torch.float64)
    if peer.formula == "bcn":
        nn.init.ones_(layer.weight_gamma)
        nn.init.zeros_(layer.weight_beta)
    kernel = peer.standardize(layer.weight)
    torch.testing.assert_close(nn.functional.conv2d(image, kernel), layer(image))
    torch.testing.assert_close(kernel, standardize_weight(layer.weight, formula=peer.formula))


def test_the_tool_takes_mmcvs_own_code() -> None:
    names = [peer.name for peer in benchmark._peers()]
    assert names[:2] == ["mmcv ConvWS", "mmcv ConvAWS"] and names[2].startswith("timm StdConv2d")


def test_every_model_trains_on_the_same_rois() -> None:
    """Or their times would differ by it. Also from step to step, which leaves weights alone."""
    sampled, losses = {}, {}
    for name in (bench.GN, bench.OURS, bench.MMCV, bench.BCN):
        trainer = bench.Trainer(name, SIZE, quick=True, device="cpu")
        rois: list[torch.Tensor] = []
        trainer.model.roi_head.bbox_roi_extractor.register_forward_pre_hook(
            lambda module, args, rois=rois: rois.append(args[1].clone())
        )
        before = [p.detach().clone() for p in trainer.model.parameters()]
        for _ in range(2):
            trainer.step()
        assert all(map(torch.equal, before, trainer.model.parameters()))
        assert len(rois) == 2 and torch.equal(*rois) and len(rois[0]) > 1
        sampled[name], losses[name] = rois[0], trainer.losses().item()
    for rois in sampled.values():
        assert torch.equal(rois, sampled[bench.GN])
    # Two roundings of the same kernels, seen through twenty layers.
    assert losses[bench.MMCV] == pytest.approx(losses[bench.OURS], rel=1e-4)
    assert losses[bench.GN] != pytest.approx(losses[bench.OURS], rel=1e-4)


def test_layers_of_each_model() -> None:
    kinds = {
        bench.GN: (nn.Conv2d, nn.GroupNorm),
        bench.OURS: (WSConv2d, nn.GroupNorm),
        bench.MMCV: (ConvWS2d, nn.GroupNorm),
        bench.BCN: (WSConv2d, bench.MODELS.get("BCN")),
    }
    for name, (conv, norm) in kinds.items():
        trainer = bench.Trainer(name, SIZE, quick=True, device="cpu")
        for part in (trainer.model.backbone, trainer.model.neck, trainer.model.roi_head.bbox_head):
            classes = {type(module) for module in part.modules()}
            assert conv in classes and norm in classes
        # RPN and predictors keep plain convolutions in all of them.
        assert type(trainer.model.rpn_head.rpn_conv) is nn.Conv2d
        assert all(p.requires_grad for p in trainer.model.parameters())


@pytest.mark.slow  # builds four or five detectors
@pytest.mark.parametrize("variant", [[], ["--channels-last"], ["--amp"]], ids=" ".join)
def test_a_quick_run(variant: list[str], tmp_path: Path) -> None:
    benchmark.main(["step", "--quick", "--repeats", "1", "--out", str(tmp_path), *variant])
    content = json.loads((tmp_path / "benchmark_step.json").read_text())
    [comparison] = content["comparisons"]
    words = f", {variant[0][2:]}" if variant else ""
    varied = [f"{name}{words}" for name in (bench.GN, bench.OURS, bench.MMCV, bench.BCN)]
    # mmcv takes views of its kernels, which those in channels-last refuse.
    skipped = [varied.pop(2)] if variant == ["--channels-last"] else []
    assert list(comparison["arms"]) == (["GN"] if variant else []) + varied
    assert list(comparison["skipped"]) == skipped
    for numbers in comparison["arms"].values():
        assert numbers["images_per_second"] == pytest.approx(1 / numbers["median_seconds"])
        assert numbers["memory, MB"] > 1
