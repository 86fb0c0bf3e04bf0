"""Weights of a network alone, in every kind of detector. Oracle: Detectron2's own loader."""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy

import pytest
import torch
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall as L
from detectron2.config import get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, SimpleFeaturePyramid, build_model
from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem
from torch import nn

from tests.detectron2.parts import TINY, yaml_config
from ws_det.detectron2 import preflight
from ws_det.detectron2.placing import placed, split_query
from ws_det.detectron2.recipe import YamlRecipe
from ws_det.detectron2.registry import add_ws_config
from ws_det.detectron2.weights import SafeCheckpointer, loaded_model
from ws_det.errors import InputError

# Of each kind one: where the network is, and how many of the weights have to be found.
KINDS = {
    "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml": "backbone.bottom_up.",
    "COCO-Detection/retinanet_R_50_FPN_1x.yaml": "backbone.bottom_up.",
    "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml": "backbone.bottom_up.",
    "Misc/semantic_R_50_FPN_1x.yaml": "backbone.bottom_up.",
    "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml": "backbone.",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml": "backbone.",
    "COCO-Detection/rpn_R_50_C4_1x.yaml": "backbone.",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x.yaml": "backbone.",
    "own pyramid": "backbone.net.",
    "own network": "backbone.",
    "ours with FPN": "backbone.bottom_up.",
    "fcos": "backbone.bottom_up.",
    "regnet": "backbone.bottom_up.",
}


class Patches(Backbone):
    """What ViTDet's pyramid stands on, as small as can be; its classes need another package."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, 16, 16, 16)
        self.blocks = nn.ModuleList(nn.Conv2d(16, 16, 1) for _ in range(2))
        self._out_features, self._out_feature_channels = ["last_feat"], {"last_feat": 16}
        self._out_feature_strides = {"last_feat": 16}

    def forward(self, x):
        return {"last_feat": self.blocks[1](self.blocks[0](self.proj(x)))}


def build_pyramid(cfg, shape):
    return SimpleFeaturePyramid(
        Patches(), "last_feat", 16, [4.0, 2.0, 1.0, 0.5], square_pad=64
    )


class Wrapped(Backbone):
    """A user's own, whose layers no Backbone holds."""

    def __init__(self, cfg, shape):
        super().__init__()
        self.body = nn.Sequential(
            OrderedDict(patch=nn.Conv2d(3, 64, 4, 4), more=nn.Conv2d(64, 64, 3, 1, 1))
        )
        self.lateral = nn.Conv2d(64, 16, 1)

    def output_shape(self):
        return {"p2": ShapeSpec(channels=16, stride=4)}

    def forward(self, x):
        return {"p2": self.lateral(self.body(x))}


@pytest.fixture(scope="module", autouse=True)
def registered():
    for name, part in (("build_pyramid", build_pyramid), ("Wrapped", Wrapped)):
        BACKBONE_REGISTRY._do_register(name, part)
    yield
    for name in ("build_pyramid", "Wrapped"):
        del BACKBONE_REGISTRY._obj_map[name]


def built(kind):
    """A tiny detector of a kind, and the recipe that it is of."""
    if kind in ("fcos", "regnet"):
        name = {"fcos": "fcos", "regnet": "mask_rcnn_fpn"}[kind]
        cfg = model_zoo.get_config(f"common/models/{name}.py").model
        if kind == "regnet":
            cfg.backbone.bottom_up = L(RegNet)(
                **{"stem_class": SimpleStem, "stem_width": 32, "block_class": ResBottleneckBlock},
                **{"depth": 23, "w_a": 38.65, "w_0": 96, "w_m": 2.43, "group_width": 40},
                **{"norm": "BN", "out_features": ["s1", "s2", "s3", "s4"]},
            )
            cfg.backbone.in_features = ["s1", "s2", "s3", "s4"]
        return instantiate(cfg)
    if kind.startswith("own "):
        cfg = yaml_config(options=TINY)
        for value in cfg.MODEL.values():
            if isinstance(value, dict) and "IN_FEATURES" in value:
                value.IN_FEATURES = ["p2"]
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 32]]
        cfg.MODEL.BACKBONE.NAME = "build_pyramid" if "pyramid" in kind else "Wrapped"
    elif kind.startswith("ours"):
        cfg = yaml_config(options=TINY)
    else:
        cfg = get_cfg()
        add_ws_config(cfg)
        cfg.merge_from_file(model_zoo.get_config_file(kind))
        cfg.merge_from_list([part for item in TINY.items() for part in item])
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


def network(model, prefix):
    """Random weights for its network alone, under the network's own names."""
    state = {}
    for key, value in model.state_dict().items():
        for place in (prefix, "roi_heads.res5."):
            if key.startswith(place) and value.is_floating_point():
                own = key.removeprefix(place)
                kernel = torch.rand_like(value)
                if value.ndim == 4:  # as weights trained with WS have them
                    kernel -= kernel.mean((1, 2, 3), keepdim=True)
                state[own if place == prefix else f"res5.{own}"] = kernel
    return state


@pytest.mark.parametrize("kind", KINDS)
def test_network_alone(kind, tmp_path):
    """It asks to be matched in the file, or where the file is named."""
    model, prefix = built(kind), KINDS[kind]
    state = network(model, prefix)
    if kind == "own network":
        state = {k.removeprefix("body."): v for k, v in state.items() if k.startswith("body.")}
    path = tmp_path / "network.pth"
    for content, query in (
        ({"model": state, "matching_heuristics": True}, ""),
        ({"model": state}, "?matching_heuristics=True"),
    ):
        torch.save(content, path)
        preflight._check_weights(YamlRecipe, model, f"{path}{query}", whole=False, force=False)
        own, theirs = deepcopy(model), deepcopy(model)
        SafeCheckpointer(own).load(f"{path}{query}")
        DetectionCheckpointer(theirs).load(f"{path}{query}")
        expected = theirs.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in own.state_dict().items())
    found = placed(state, own, str(path)).keys() & expected.keys()
    assert len(found) == len(state)
    print(f"{kind}: {len(found)} of {len(expected)} weights, those below {prefix}")


def test_other_networks_are_refused(tmp_path):
    """Half of a network, another one, and none. Oracle: what was left out."""
    kind = "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"
    model = built(kind)
    state = network(model, "backbone.")
    half = {key: value for key, value in state.items() if not key.startswith("res4")}
    for wrong, reason in ((half, "res4.0"), ({"x.weight": torch.ones(3)}, "of another model")):
        torch.save({"model": wrong, "matching_heuristics": True}, tmp_path / "x.pth")
        with pytest.raises(InputError, match=reason):
            preflight._check_weights(
                YamlRecipe, model, str(tmp_path / "x.pth"), whole=False, force=False
            )


def test_queries():
    """Oracle: by hand. Detectron2 leaves out a query of a path, and knows one."""
    assert split_query("a/b.pth") == ("a/b.pth", False)
    asked = "detectron2://x.pth?matching_heuristics=True"
    assert split_query(asked) == ("detectron2://x.pth", True)
    assert split_query("x.pth?matching_heuristics=False") == ("x.pth", False)
    for query in ("matching_heuristics=1", "heuristics=True", "matching_heuristics=True&x=1", "x"):
        with pytest.raises(InputError, match="leave it out, or write matching_heuristics=True"):
            split_query(f"x.pth?{query}")


def test_a_weight_with_two_places_is_refused(tmp_path):
    """Detectron2 raises a ValueError there."""
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    torch.save({"weight": torch.ones(2, 2)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"fits two places of the model, a\.weight and b\.weight"):
        SafeCheckpointer(model).load(f"{tmp_path}/x.pth?matching_heuristics=True")


def test_the_longest_name_is_taken_and_marks_go_with_it(tmp_path):
    """Oracle: Detectron2's loader for the weights, by hand for the mark."""
    names = ("stem.conv1", "conv1")
    state = OrderedDict((f"{name}.weight", torch.rand(1, 1, 1, 1)) for name in names)
    state._metadata = OrderedDict({"stem.conv1": {"ws_folded": True}, "other": {}})
    conv = nn.ModuleDict({"conv1": nn.Conv2d(1, 1, 1)})
    model = nn.ModuleDict({"net": nn.ModuleDict({"stem": conv, "x": deepcopy(conv)})})
    torch.save({"model": state, "matching_heuristics": True}, tmp_path / "x.pth")
    theirs = deepcopy(model)
    DetectionCheckpointer(theirs).load(str(tmp_path / "x.pth"))
    found = loaded_model(str(tmp_path / "x.pth"), model)["model"]
    expected = {k: v for k, v in theirs.state_dict().items() if k.endswith("weight")}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert found._metadata == {"net.stem.conv1": {"ws_folded": True}}


def test_pycls(tmp_path):
    """Their files have the weights under another name. Oracle: Detectron2's loader."""
    content = {"model_state": {"0.weight": torch.rand(2, 2), "0.bias": torch.rand(2)}, "epoch": 3}
    torch.save(content, tmp_path / "x.pyth")
    own, theirs = (nn.ModuleDict({"net": nn.Sequential(nn.Linear(2, 2))}) for _ in range(2))
    SafeCheckpointer(own).load(str(tmp_path / "x.pyth"))
    DetectionCheckpointer(theirs).load(str(tmp_path / "x.pyth"))
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), theirs.parameters()))
