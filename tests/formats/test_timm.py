"""timm's ResNets, there and back. Oracle: its own models, and MMDetection's names by hand."""

from __future__ import annotations

from random import random

import pytest
import torch

from ws_det.formats import convert_state

timm = pytest.importorskip("timm", reason="needs timm")


@pytest.mark.parametrize(("model", "norm"), [("resnet18", "bn"), ("resnet50_gn", "gn")])
@pytest.mark.parametrize("to", ["mmdet", "detectron2"])
def test_there_and_back(model: str, norm: str, to: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(model).state_dict()
    for key, tensor in state.items():
        state[key] = torch.full(tensor.shape, random()).to(tensor.dtype)
    there = convert_state(state, to)
    assert (there.unmatched, there.needless) == ([], ["fc.weight", "fc.bias"])
    name = {"mmdet": f"layer2.0.{norm}1.weight", "detectron2": "res3.0.conv1.norm.weight"}[to]
    assert there.state[name] is state["layer2.0.bn1.weight"]
    back = convert_state(there.state, "timm").state
    assert list(back) == [key for key in state if not key.startswith("fc.")]
    assert all(torch.equal(back[key], state[key]) for key in back)


def test_a_deep_stem_has_no_counterpart() -> None:
    """Oracle: timm's ResNet-D, whose stem is three convolutions."""
    with torch.device("meta"):
        state = timm.create_model("resnet18d").state_dict()
    for key, tensor in state.items():
        state[key] = torch.zeros(tensor.shape).to(tensor.dtype)
    unmatched = convert_state(state, "detectron2").unmatched
    assert "conv1.0.weight" in unmatched and "layer2.0.downsample.1.weight" in unmatched
