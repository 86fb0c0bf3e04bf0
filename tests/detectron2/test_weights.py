"""Reading checkpoints. Oracles: what was written, and a file that shows whether its code ran."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from detectron2.modeling.backbone import BasicStem, ResNet
from torch import nn

from ws_det.detectron2.weights import SafeCheckpointer, loaded_model, local_file
from ws_det.errors import InputError
from ws_det.formats import FORMATS
from ws_det.formats.files import checkpoint_of


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_own_checkpoint_comes_back(tmp_path):
    model = nn.Linear(2, 2)
    SafeCheckpointer(model, str(tmp_path)).save("model", iteration=3)
    other = nn.Linear(2, 2)
    rest = SafeCheckpointer(other).load(str(tmp_path / "model.pth"))
    assert torch.equal(other.weight, model.weight) and rest["iteration"] == 3


@pytest.mark.parametrize("wrapped", [False, True])
def test_mmdetection_backbone_gets_detectron2_keys(tmp_path, wrapped, caplog):
    """Oracle: a key of each kind by hand."""
    state = {
        "conv1.weight": torch.randn(4, 3, 7, 7),
        "gn1.weight": torch.randn(4),
        "layer1.0.conv1.weight": torch.randn(4, 4, 1, 1),
        "layer2.0.downsample.0.weight": torch.randn(8, 4, 1, 1),
        "layer2.0.downsample.1.bias": torch.randn(8),
    }
    names = {
        "conv1.weight": "stem.conv1.weight",
        "gn1.weight": "stem.conv1.norm.weight",
        "layer1.0.conv1.weight": "res2.0.conv1.weight",
        "layer2.0.downsample.0.weight": "res3.0.shortcut.weight",
        "layer2.0.downsample.1.bias": "res3.0.shortcut.norm.bias",
    }
    left = {"fc.weight": torch.randn(2, 8)}
    saved = {f"module.{k}": v for k, v in (state | left).items()} if wrapped else state | left
    torch.save({"state_dict": saved, "meta": {}}, tmp_path / "b.pth")
    found = loaded_model(str(tmp_path / "b.pth"))["model"]
    assert set(found) == {f"backbone.bottom_up.{name}" for name in names.values()}
    for key, name in names.items():
        assert torch.equal(found[f"backbone.bottom_up.{name}"], state[key])
    assert "1 weights of" in caplog.text and "fc.weight" in caplog.text


def test_mmdetection_detector_brings_its_heads(tmp_path):
    """Oracle: Detectron2's names for a convolution, a linear layer and a predictor."""
    names = {
        "backbone.layer1.0.conv1.weight": "backbone.bottom_up.res2.0.conv1.weight",
        "neck.lateral_convs.0.gn.weight": "backbone.fpn_lateral5.norm.weight",
        "rpn_head.rpn_cls.bias": "proposal_generator.rpn_head.objectness_logits.bias",
        "roi_head.bbox_head.shared_fcs.0.weight": "roi_heads.box_head.fc1.weight",
        "roi_head.mask_head.convs.2.conv.weight": "roi_heads.mask_head.mask_fcn3.weight",
    }
    dimensions = {"weight": 4, "bias": 1}
    state = {key: torch.rand([1] * dimensions[key.rpartition(".")[2]]) for key in names}
    for key in ("neck.lateral_convs.0.gn.weight", "roi_head.bbox_head.shared_fcs.0.weight"):
        state[key] = torch.rand(2, 2) if "fcs" in key else torch.rand(2)
    torch.save({"state_dict": state}, tmp_path / "d.pth")
    found = loaded_model(str(tmp_path / "d.pth"))["model"]
    assert set(found) == set(names.values())
    assert all(torch.equal(found[name], state[key]) for key, name in names.items())


def test_converted_backbone_goes_below_the_fpn(tmp_path):
    """Oracle: the flag with which Detectron2's own loader matches the names of a backbone."""
    state = OrderedDict({"res2.0.conv1.weight": torch.rand(1, 1, 1, 1)})
    state._metadata = {"res2.0.conv1": {"ws_folded": True}}
    content = checkpoint_of(state, FORMATS["detectron2"])
    assert content["matching_heuristics"]
    torch.save(content, tmp_path / "b.pth")
    found = loaded_model(str(tmp_path / "b.pth"))
    assert list(found["model"]) == ["backbone.bottom_up.res2.0.conv1.weight"]
    assert list(found["model"]._metadata) == ["backbone.bottom_up.res2.0.conv1"]
    assert "matching_heuristics" not in found


@pytest.mark.parametrize("file", ["x.pth", "x.pkl"])
def test_code_is_refused_and_does_not_run(tmp_path, file):
    trap = tmp_path / "ran"
    path = tmp_path / file
    with path.open("wb") as out:
        (pickle if file.endswith("pkl") else torch.serialization.pickle).dump(
            {"model": RunsCode(str(trap))}, out
        )
    if file.endswith("pth"):
        torch.save({"model": RunsCode(str(trap))}, path)
    with pytest.raises(InputError, match=r"x\.p.* holds more than"):
        SafeCheckpointer(nn.Linear(1, 1)).load(str(path))
    assert not trap.exists()


def test_model_zoo_pickle_loads(tmp_path):
    """Oracle: the array that was pickled, under the name that Detectron2's own loader gives it."""
    weight = np.random.default_rng(0).normal(size=(64, 3, 7, 7)).astype(np.float32)
    zoo = {"model": OrderedDict({"stem.conv1.weight": weight}), "__author__": "test"}
    caffe2 = {"conv1_w": weight, "conv1_w_momentum": weight}
    for name, content in (("zoo", zoo), ("caffe2", caffe2)):
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(content))
        model = ResNet(BasicStem(norm=""), ResNet.make_default_stages(18), out_features=["res2"])
        SafeCheckpointer(model).load(str(tmp_path / f"{name}.pkl"))
        assert np.array_equal(model.stem.conv1.weight.detach().numpy(), weight), name


@pytest.mark.parametrize("content", [b"", b"\x80\x04]", pickle.dumps([1]), pickle.dumps(1)[:-1]])
def test_damaged_pickle_is_refused(tmp_path, content):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.pkl (is truncated|holds a list)"):
        SafeCheckpointer(nn.Linear(1, 1)).load(str(tmp_path / "x.pkl"))


@pytest.mark.parametrize("reference", ["nowhere.pth", "catalog://Nothing/Here", "unknown://x"])
def test_missing_file_is_refused(reference):
    with pytest.raises(InputError, match=reference):
        local_file(reference)
