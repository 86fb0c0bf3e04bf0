"""tools/diagnose.py for MMDetection, on a tiny Mask R-CNN whose blocks use one ReLU twice.

Oracle: a channel killed by hand, and a block written out on the inputs that it gets.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import write_set
from tests.mmdet.conftest import CONFIG
from tests.mmdet.test_folding import settled_model
from tools import diagnose
from ws_det.mmdet import diagnose as adapter

HEADS = ("bbox_head", "mask_head")
KILLED = "backbone.layer3.1.gn1"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Mask R-CNN with the classes of the set."""
    path = tmp_path_factory.mktemp("config") / "two.py"
    heads = [f"model['roi_head']['{head}']['num_classes'] = 2" for head in HEADS]
    path.write_text("\n".join([CONFIG, *heads]))
    return path


@pytest.fixture(scope="module")
def checkpoint(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, with a channel that no image gets above 0."""
    path = tmp_path_factory.mktemp("killed") / "x.pth"
    model = settled_model(config)
    with torch.no_grad():
        model.get_submodule(KILLED).bias[5] = -100
    torch.save({"state_dict": model.state_dict()}, path)
    return path


def test_the_killed_channel_is_named_first(
    config: Path, checkpoint: Path, coco_set: Path, tmp_path: Path, capsys
) -> None:
    paths = [str(path) for path in (config, checkpoint)]
    flags = ["--data-root", str(coco_set), "--images", "3", "--out", str(tmp_path / "out")]
    diagnose.main([*paths, *flags, "--cfg-options", "model.test_cfg.rcnn.max_per_img=5"])
    said = capsys.readouterr().out.splitlines()
    first = said.index(next(line for line in said if line.startswith("the channels"))) + 1
    assert said[first].split()[:3] == [KILLED, "5", "0.00%"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["diagnose.json", "diagnose.png"]
    found = json.loads((tmp_path / "out/diagnose.json").read_text())
    # the stem, two norms in each of 8 blocks, one of the mask head; the FPN has no nonlinearity
    blocks = [f"backbone.layer{n}.{b}.gn{k}" for n in (1, 2, 3, 4) for b in (0, 1) for k in (1, 2)]
    assert list(found["layers"]) == ["backbone.gn1", *blocks, "roi_head.mask_head.convs.0.gn"]
    assert found["parts"]["backbone.layer3"]["channels"] == 4 * 64


def test_the_statistics_of_a_block(
    config: Path, checkpoint: Path, coco_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The norm of the shortcut runs last, the sum enters the ReLU behind gn2."""
    inputs: list[Tensor] = []
    kept: list[nn.Module] = []

    def keep(name: str, path: str, *rest: object) -> tuple:
        detector = load(name, path, *rest)
        block = detector.model.backbone.layer2[0]
        block.register_forward_pre_hook(lambda module, args: inputs.append(args[0].clone()))
        kept.append(block)
        return detector

    load = adapter.load_detector
    monkeypatch.setattr(adapter, "load_detector", keep)
    found = adapter.diagnose(str(config), str(checkpoint), 9, str(coco_set))
    (block,) = kept
    assert len(inputs) == 4  # all that the set has
    with torch.no_grad():
        first = [block.norm1(block.conv1(x)) for x in inputs]
        second = [
            block.norm2(block.conv2(h.relu())) + block.downsample(x) for x, h in zip(inputs, first)
        ]
    for layer, values in (("gn1", first), ("gn2", second)):
        cells = torch.cat([v[0].flatten(1) for v in values], 1).double()
        own = found[f"backbone.layer2.0.{layer}"]
        # float64 sums in another order
        torch.testing.assert_close(own.mean, cells.mean(1), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(own.std, cells.std(1, correction=0), rtol=1e-9, atol=1e-9)
        assert torch.equal(own.active, (cells > 0).double().mean(1))


def test_what_it_refuses(
    config: Path, checkpoint: Path, coco_set: Path, tmp_path: Path, refusal
) -> None:
    """Oracle: one sentence each, and no file."""
    out, data = ("--out", tmp_path / "out"), ("--data-root", coco_set)
    good = (diagnose, config, checkpoint, *out)
    assert "--images 0: give at least 1" in refusal(*good, *data, "--images", "0")
    assert "there is no folder" in refusal(*good, "--data-root", tmp_path / "none")
    assert "did you mean 'backbone'" in refusal(*good, "--cfg-options", "model.bakbone.depth=3")
    assert "the data root data/coco/ does not exist" in refusal(*good)
    said = refusal(diagnose, config, tmp_path / "none.pth", *data, *out)
    assert "no checkpoint at" in said
    other, state = tmp_path / "other.pth", torch.load(checkpoint, weights_only=True)
    del state["state_dict"]["roi_head.bbox_head.fc_cls.weight"]
    torch.save(state, other)
    assert "another model" in refusal(diagnose, config, other, *data, *out)
    state = torch.load(checkpoint, weights_only=True)
    state["state_dict"]["backbone.gn1.weight"][3] = torch.inf
    torch.save(state, other)
    said = refusal(diagnose, config, other, *data, *out)
    assert "behind backbone.gn1 is NaN or infinite: give weights of a run that did not" in said
    no_test = tmp_path / "no_test.py"
    no_test.write_text(CONFIG + "test_dataloader = test_evaluator = test_cfg = None\n")
    assert "has no test_dataloader" in refusal(diagnose, no_test, checkpoint, *data, *out)
    file = tmp_path / "file"
    file.touch()
    said = refusal(diagnose, config, checkpoint, *data, "--out", file)
    assert f"{file} cannot be written" in said
    assert not (tmp_path / "out").exists()


def test_a_damaged_image_is_named(
    config: Path, checkpoint: Path, damaged_set: Path, tmp_path: Path, refusal
) -> None:
    args = (config, checkpoint, "--data-root", damaged_set, "--out", tmp_path / "out")
    for workers in (0, 1):
        options = ("--cfg-options", f"test_dataloader.num_workers={workers}")
        said = refusal(diagnose, *args, *options)
        assert said.startswith(f"error: the image {damaged_set}/val2017/2.jpg cannot be read")


@pytest.fixture
def damaged_set(tmp_path: Path) -> Path:
    root = write_set(tmp_path / "data")
    (root / "val2017/2.jpg").write_bytes(b"no image")
    return root
