"""tools/diagnose.py for Detectron2, lazy and yaml, whose blocks call ``F.relu_`` on sums.

Oracle: a channel killed by hand, and a block written out on the inputs that it gets.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BasicBlock
from torch import Tensor, nn

from tests.conftest import write_set
from tests.detectron2.parts import TINY, yaml_config
from tests.detectron2.test_folding import LAZY, settled_model
from tests.detectron2.test_mended import make_odd
from tools import diagnose
from ws_det.detectron2 import diagnose as adapter
from ws_det.diagnostics import channel_statistics

KILLED = "backbone.bottom_up.res4.1.conv1.norm"


def trained(kind: str, norm: str, root: Path) -> tuple[Path, Path]:
    """A config for the set's two classes, and random weights with a channel that is always off."""
    path = root / ("config.py" if kind == "lazy" else "config.yaml")
    if kind == "lazy":
        path.write_text(
            LAZY.format(norm=norm, groups=8) + "model.module.roi_heads.num_classes = 2\n"
            "model.module.roi_heads.box_predictor.num_classes = 2\n"
            "model.module.roi_heads.mask_head.num_classes = 2\n"
        )
    else:
        options = {"MODEL.WS.NUM_GROUPS": 8, "MODEL.ROI_HEADS.NUM_CLASSES": 2}
        path.write_text(yaml_config(norm, TINY | options).dump())
    model = settled_model(path)
    with torch.no_grad():
        norm_layer = model.get_submodule(KILLED)
        # of BCN the batch norm: its own bias is one per group
        getattr(norm_layer, "bn", norm_layer).bias[5] = -1000
    torch.save({"model": model.state_dict()}, root / "x.pth")
    return path, root / "x.pth"


@pytest.mark.parametrize(("kind", "norm"), [("lazy", "GN"), ("yaml", "BCN")])
def test_the_killed_channel_is_named_first(
    kind: str, norm: str, coco_set: Path, tmp_path: Path, capsys
) -> None:
    config, checkpoint = trained(kind, norm, tmp_path)
    flags = ["--data-root", coco_set, "--images", 2, "--out", tmp_path / "out"]
    diagnose.main([str(arg) for arg in (config, checkpoint, *flags)])
    said = capsys.readouterr().out.splitlines()
    first = said.index(next(line for line in said if line.startswith("the channels"))) + 1
    assert said[first].split()[:3] == [KILLED, "5", "0.00%"]
    found = json.loads((tmp_path / "out/diagnose.json").read_text())
    assert (tmp_path / "out/diagnose.png").is_file()
    # the stem, each norm of a block but the shortcut's, those of the heads, and none of the FPN
    blocks = ["backbone.stem", *(f"backbone.res{n}" for n in (2, 3, 4, 5))]
    assert list(found["parts"]) == [*blocks, "roi_heads.box_head", "roi_heads.mask_head"]
    layers = {part: numbers["layers"] for part, numbers in found["parts"].items()}
    expected = [1, 4, 4, 4, 4, 2, 2] if kind == "lazy" else [1, 9, 12, 18, 9, 4, 4]
    assert list(layers.values()) == expected
    assert not [layer for layer in found["layers"] if "fpn" in layer or "shortcut" in layer]


def test_the_statistics_of_a_block(
    coco_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, checkpoint = trained("lazy", "GN", tmp_path)
    inputs: list[Tensor] = []
    kept: list[BasicBlock] = []

    def keep(*args: object) -> tuple:
        detector = load(*args)
        block = detector.model.backbone.bottom_up.res3[0]
        block.register_forward_pre_hook(lambda module, given: inputs.append(given[0].clone()))
        kept.append(block)
        return detector

    load = adapter.load_detector
    monkeypatch.setattr(adapter, "load_detector", keep)
    found = adapter.diagnose(str(config), str(checkpoint), 9, str(coco_set))
    (block,) = kept
    assert isinstance(block, BasicBlock) and len(inputs) == 4  # all that the set has
    with torch.no_grad():
        activation, block.conv1.activation = block.conv1.activation, None
        first = [block.conv1(x) for x in inputs]
        block.conv1.activation = activation
        second = [block.conv2(h.relu()) + block.shortcut(x) for x, h in zip(inputs, first)]
    for layer, values in (("conv1", first), ("conv2", second)):
        cells = torch.cat([v[0].flatten(1) for v in values], 1).double()
        own = found[f"backbone.bottom_up.res3.0.{layer}.norm"]
        # float64 sums in another order
        torch.testing.assert_close(own.mean, cells.mean(1), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(own.std, cells.std(1, correction=0), rtol=1e-9, atol=1e-9)
        assert torch.equal(own.active, (cells > 0).double().mean(1))


def test_what_it_refuses(coco_set: Path, tmp_path: Path, refusal) -> None:
    """Oracle: one sentence each, and no file."""
    config, checkpoint = trained("lazy", "GN", tmp_path)
    out, data = ("--out", tmp_path / "out"), ("--data-root", coco_set)
    good = (diagnose, config, checkpoint, *out)
    assert "there is no folder" in refusal(*good, "--data-root", tmp_path / "none")
    said = refusal(*good, "--cfg-options", "dataloader.test.dataset.names=[]")
    assert f"the config {config} has no test set: give --data-root FOLDER" in said
    said = refusal(*good, "--cfg-options", "dataloader.test.dataset.names=unknown")
    assert "no data set is registered as 'unknown'" in said
    said = refusal(diagnose, config, tmp_path / "none.pth", *data, *out)
    assert "no checkpoint at" in said
    state = torch.load(checkpoint, weights_only=True)
    torch.save({"model": {"other.weight": torch.ones(3)}}, tmp_path / "other.pth")
    assert "another model" in refusal(diagnose, config, tmp_path / "other.pth", *data, *out)
    state["model"][KILLED.replace("res4.1", "res2.0") + ".weight"][3] = torch.inf
    torch.save(state, tmp_path / "other.pth")
    said = refusal(diagnose, config, tmp_path / "other.pth", *data, *out)
    assert "behind backbone.bottom_up.res2.0.conv1.norm is NaN or infinite" in said
    assert not (tmp_path / "out").exists()


def test_a_damaged_image_is_named(tmp_path: Path, refusal) -> None:
    """Also by a data worker, which the config has."""
    data = write_set(tmp_path / "data")
    (data / "val2017/2.jpg").write_bytes(b"no image")
    args = (*trained("yaml", "GN", tmp_path), "--data-root", data, "--out", tmp_path / "out")
    said = refusal(diagnose, *args, "--cfg-options", "DATALOADER.NUM_WORKERS=1")
    assert said.startswith(f"error: the image {data}/val2017/2.jpg cannot be read (it is no image)")


def test_a_frozen_norm_counts() -> None:
    model = nn.Sequential(FrozenBatchNorm2d(2), nn.ReLU())
    model[0].bias[1] = -9
    x = torch.randn(1, 3, 2, 4, 4)
    assert channel_statistics(model, x)["0"].nearly_dead.tolist() == [False, True]


def test_odd_annotations_do_not_matter(coco_set: Path, tmp_path: Path) -> None:
    """Oracle: the set with an ordinary file."""
    config, checkpoint = trained("lazy", "GN", tmp_path)
    odd = Path(shutil.copytree(coco_set, tmp_path / "odd"))
    for path in odd.glob("annotations/*.json"):
        path.write_text(make_odd(json.loads(path.read_text())))
    found, expected = (
        adapter.diagnose(str(config), str(checkpoint), 2, str(root)) for root in (odd, coco_set)
    )
    assert found.keys() == expected.keys()
    for name, statistics in found.items():
        assert torch.equal(statistics.mean, expected[name].mean), name
