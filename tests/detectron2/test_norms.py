"""Norms by name, against Detectron2's own ``get_norm``, and LazyConfigs that hold them."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import detectron2.layers
import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from torch import nn

from ws_det import BatchChannelNorm2d, EstBatchNorm2d, convert_to_ws
from ws_det.detectron2 import WSConv2d, get_norm
from ws_det.detectron2.norms import NAMES
from ws_det.errors import InputError


@pytest.mark.parametrize("name", NAMES)
def test_detectron2_takes_every_name(name):
    """Oracle: Detectron2's get_norm builds it; for the names both know, the same class."""
    norm = detectron2.layers.get_norm(get_norm(name), 64)
    if name not in ("BCN", "EstBN"):
        assert type(norm) is type(detectron2.layers.get_norm(name, 64))
    if norm is not None and not name.startswith("naive") and "Sync" not in name:
        assert norm(torch.randn(2, 64, 4, 4)).shape == (2, 64, 4, 4)


def test_names_are_all_that_detectron2_has():
    """Oracle: the KeyError of Detectron2's get_norm for a name it lacks."""
    for name in ("BCN", "EstBN", "GroupNorm"):
        with pytest.raises(KeyError):
            detectron2.layers.get_norm(name, 64)


def test_options_reach_the_norm():
    """Oracle: the attributes of the layers."""
    assert get_norm("GN", 8)(64).num_groups == 8
    norm = get_norm("BCN", 8, estimate=False, momentum=0.2)(64)
    assert norm.num_groups == 8 and type(norm.bn) is nn.BatchNorm2d and norm.bn.momentum == 0.2
    assert isinstance(get_norm("BCN")(64).bn, EstBatchNorm2d)
    assert get_norm("EstBN", momentum=0.2)(64).momentum == 0.2


@pytest.mark.parametrize("name", ["GN", "BCN"])
def test_groups_that_do_not_divide_are_refused_when_the_layer_is_built(name):
    """Oracle: InputError with both numbers."""
    norm = get_norm(name, num_groups=32)
    with pytest.raises(InputError, match=r"num_groups=32 does not divide .*48"):
        detectron2.layers.get_norm(norm, 48)


@pytest.mark.parametrize("name", ["GroupNorm", "bn", "BatchNorm", None])
def test_unknown_name_is_refused(name):
    """Oracle: InputError with the value and the known names."""
    with pytest.raises(InputError, match=f"unknown norm {name!r}: .*'GN', 'BCN', 'EstBN'"):
        get_norm(name)


@pytest.mark.parametrize("name", ["GN", "BCN", "EstBN"])
def test_callables_can_be_pickled(name):
    """Oracle: pickle, which refuses lambdas and what is defined in a function."""
    norm = pickle.loads(pickle.dumps(get_norm(name, 4)))(8)
    assert norm.state_dict().keys() == get_norm(name, 4)(8).state_dict().keys()


@pytest.mark.parametrize(
    "norm",
    ["GN", get_norm("GN", 16), get_norm("BCN", 16), get_norm("EstBN"),
     partial(BatchChannelNorm2d, num_groups=32, estimate=True)],
)  # fmt: skip
def test_lazy_config_builds_prints_and_survives_a_file(norm, tmp_path: Path):
    """Oracle: the model and its keys before LazyConfig.save and after load; no .pkl beside it."""
    cfg = model_zoo.get_config("common/models/mask_rcnn_fpn.py")
    cfg.model.backbone.bottom_up.stem.norm = norm
    cfg.model.backbone.bottom_up.stages.norm = norm
    cfg.model.backbone.bottom_up.stages.depth = 18  # fewer numbers to draw
    del cfg.model.backbone.bottom_up.stages.stride_in_1x1
    cfg.model.backbone.norm = norm
    cfg.model.roi_heads.box_head.update(conv_dims=[256] * 4, fc_dims=[1024], conv_norm=norm)
    cfg.model.roi_heads.mask_head.conv_norm = norm
    cfg.model = L(convert_to_ws)(module=cfg.model)
    assert "convert_to_ws" in str(cfg) and "convert_to_ws" in LazyConfig.to_py(cfg)
    model = instantiate(cfg.model)
    # 20 in ResNet-18, 8 in the FPN, 4 + 4 in the heads
    assert sum(type(m) is WSConv2d for m in model.modules()) == 36
    file = tmp_path / "config.yaml"
    LazyConfig.save(cfg, str(file))
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    again = instantiate(LazyConfig.load(str(file)).model)
    assert [(k, v.shape) for k, v in again.state_dict().items()] == [
        (k, v.shape) for k, v in model.state_dict().items()
    ]
    assert [type(m) for m in again.modules()] == [type(m) for m in model.modules()]
