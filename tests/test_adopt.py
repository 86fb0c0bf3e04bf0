"""Adopting WS: the same function from weights without it. Oracle: the plain model's output."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ws_det import FORMULAS, InputError, convert_to_ws, fold_ws
from ws_det.adopt import adopt_ws, followed_by_norm


def plain() -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 1, groups=8), nn.BatchNorm2d(8),  # a filter of one element has no deviation
        nn.Conv2d(8, 4, 1),
    )  # fmt: skip
    with torch.no_grad():
        model[0].weight.mul_(3).add_(0.5)  # far from standardized
        model[0].weight[1] = 0.25  # a constant filter
        model[3].weight[0] = 0
    return model.eval()


@pytest.mark.parametrize("formula", FORMULAS)
def test_the_function_stays(formula: str) -> None:
    """To 1e-5 of the largest output: kernels are taken apart and put together in float32."""
    model = plain()
    x = torch.randn(2, 3, 9, 9)
    expected = model(x)
    adopted = adopt_ws(model.state_dict(), formula)
    new = sorted(set(adopted) - set(model.state_dict()))
    assert new == ["0.weight_beta", "0.weight_gamma", "3.weight_beta", "3.weight_gamma"]
    ws = convert_to_ws(copy.deepcopy(model), formula=formula, adaptive=True)
    for conv in (ws[0], ws[3]):
        conv.weight_gamma.fill_(7)  # not what conversion found: they must come from the file
    ws.load_state_dict(adopted)
    assert (ws(x) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_what_the_names_tell() -> None:
    """Oracle: which kernels have a norm in Detectron2, MMDetection, torchvision and Res2Net."""
    kernel, norm = torch.ones(8, 4, 3, 3), torch.ones(8)
    yes = {
        "backbone.bottom_up.res2.0.conv1.weight": "backbone.bottom_up.res2.0.conv1.norm.weight",
        "neck.lateral_convs.0.conv.weight": "neck.lateral_convs.0.gn.weight",
        "layer1.0.conv2.weight": "layer1.0.bn2.weight",
        "conv1.weight": "gn1.weight",
        "layer1.0.downsample.0.weight": "layer1.0.downsample.1.weight",
        "layer1.0.convs.2.weight": "layer1.0.bns.2.weight",
    }
    for key, name in yes.items():
        assert followed_by_norm({key: kernel, name: norm}, key), key
        assert not followed_by_norm({key: kernel}, key)
        assert not followed_by_norm({key: kernel, name: torch.ones(9)}, key)
        assert not followed_by_norm({key: kernel, name: norm}, name)
    state = {"conv1.weight": kernel, "bn2.weight": norm, "rpn.conv.weight": kernel}
    assert not any(followed_by_norm(state, key) for key in state)


def test_other_weights_are_refused() -> None:
    model = convert_to_ws(plain(), adaptive=True)
    with pytest.raises(InputError, match="were trained with WS"):
        adopt_ws(model.state_dict())
    with pytest.raises(InputError, match="are folded"):
        adopt_ws(fold_ws(convert_to_ws(plain()).eval()).state_dict())
    with pytest.raises(InputError, match="no kernel in the weights has a norm"):
        adopt_ws({"a.weight": torch.ones(8, 4, 3, 3), "b": 3})


def test_metadata_and_other_entries_stay() -> None:
    state = plain().state_dict()
    state["extra"] = "text"
    adopted = adopt_ws(state)
    assert adopted._metadata is state._metadata and adopted["extra"] == "text"
    assert all(adopted[key] is state[key] for key in state)
