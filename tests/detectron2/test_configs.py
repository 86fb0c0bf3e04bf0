"""The supplied Detectron2 configs: each builds, trains and predicts, with WS where it belongs.

Oracles: Detectron2's own configs, field by field; places of WS written out by name; the linear rule
for the micro-batch variants; MMEngine's list of weights and MMDetection's demo, where installed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ws_det import BatchChannelNorm2d, EstBatchNorm2d, config_path
from ws_det.detectron2 import add_ws_config
from ws_det.layers import WeightStandardized

FOLDER = Path(__file__).resolve().parents[2] / "configs/detectron2"
LAZY = sorted(FOLDER.glob("*.py"))
YAML = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.startswith("Base-"))
DEMO = "mask_rcnn_R_18_FPN_gn_ws_demo_shapes"
R50 = "mask_rcnn_R_50_FPN_2x_gn_ws"

each_lazy = pytest.mark.parametrize("path", LAZY, ids=lambda path: path.stem)
each_config = pytest.mark.parametrize("path", [*LAZY, *YAML], ids=lambda path: path.name)


def load(name: str | Path) -> Any:
    path = config_path(Path(name).name)
    if path.endswith(".py"):
        return LazyConfig.load(path)
    cfg = get_cfg()
    add_ws_config(cfg)
    cfg.merge_from_file(path, allow_unsafe=False)
    return cfg


def build(cfg: Any, device: str = "meta") -> nn.Module:
    if isinstance(cfg, CfgNode):
        cfg = cfg.clone()
        cfg.MODEL.DEVICE = device
    with torch.device(device):
        return build_model(cfg) if isinstance(cfg, CfgNode) else instantiate(cfg.model)


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def layers(model: nn.Module) -> dict[str, tuple]:
    """What a printed model says, of each layer that has parameters, and whether it trains."""
    return {
        name: (repr(module), [p.requires_grad for p in module.parameters(recurse=False)])
        for name, module in model.named_modules()
        if [*module.parameters(recurse=False)]
    }


def frozen(model: nn.Module) -> set[str]:
    """The parts, as stem or res2, that hold parameters which do not train."""
    names = (name for name, p in model.named_parameters() if not p.requires_grad)
    return {name.removeprefix("backbone.bottom_up.").split(".")[0] for name in names}


def flat(node: dict, prefix: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for key, value in node.items():
        nested = isinstance(value, dict)
        rows |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return rows


def image(height: int, width: int, classes: int = 5) -> dict[str, Any]:
    """A picture of noise with two things in it, as the mapper hands one over."""
    boxes = torch.tensor([[4.0, 4.0, 60.0, 50.0], [30.0, 20.0, 80.0, 60.0]])
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist()):
        mask[top:bottom, left:right] = True
    things = Instances((height, width))
    things.gt_boxes, things.gt_masks = Boxes(boxes), BitMasks(masks)
    things.gt_classes = torch.arange(2) % classes
    pixels = torch.randint(256, (3, height, width), dtype=torch.uint8)
    return {"image": pixels, "height": height, "width": width, "instances": things}


@each_config
def test_config_trains_a_step_and_predicts(path: Path) -> None:
    """The whole model on a small image; only the proposals are fewer."""
    torch.manual_seed(0)
    model = build(load(path), "cpu")
    fewer = {"post_nms_topk": {True: 50, False: 4}, "batch_size_per_image": 8}
    fewer |= {"test_topk_per_image": 4, "test_score_thresh": 0.0}  # untrained scores are low
    for module in model.modules():
        for name in fewer.keys() & vars(module).keys():
            setattr(module, name, fewer[name])
    with EventStorage():
        losses = model.train()([image(64, 96)])
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    kinds = {name.split("_stage")[0] for name in losses}
    assert any("loss_cls" in kind for kind in kinds)
    assert ("loss_mask" in kinds) == ("mask" in path.stem)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name

    with torch.no_grad():
        (found,) = model.eval()([image(64, 96)])
    found = found["instances"]
    assert len(found) and torch.isfinite(found.pred_boxes.tensor).all()
    assert found.has("pred_masks") == ("mask" in path.stem)


@each_lazy
def test_lazy_config_prints_saves_and_loads_again(path: Path, tmp_path: Path) -> None:
    """Oracle: the config itself, built before and after the trip through a file."""
    cfg = load(path)
    assert set(cfg) == {"dataloader", "lr_multiplier", "model", "optimizer", "train"}
    assert "convert_for_loop" in LazyConfig.to_py(cfg) or "_bn_" in path.stem
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]  # no .pkl
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    assert layers(build(again)) == layers(build(cfg))
    assert again.train == cfg.train


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.stem)
def test_yaml_config_prints_saves_and_loads_again(path: Path, tmp_path: Path) -> None:
    cfg, again = load(path), get_cfg()
    (tmp_path / "config.yaml").write_text(cfg.dump())
    add_ws_config(again)
    again.merge_from_file(str(tmp_path / "config.yaml"), allow_unsafe=False)
    assert json.dumps(again) == json.dumps(cfg)  # a tuple comes back as a list


# Where WS is in a detector of an R-50: stem, three convolutions a block and a shortcut a stage;
# FPN; box heads; mask head; heads of RetinaNet.
BACKBONE, FPN = {"backbone.bottom_up": 1 + 3 * 16 + 4}, {"backbone.fpn_": 2 * 4}
BOX, MASK = {"roi_heads.box_head": 4}, {"roi_heads.mask_head": 4}
MASK_RCNN = BACKBONE | FPN | BOX | MASK
CASCADE = MASK_RCNN | {"roi_heads.box_head": 3 * 4}
RETINANET = BACKBONE | {"backbone.fpn_": 2 * 3, "head.cls_subnet": 4, "head.bbox_subnet": 4}
DEPTH_101 = MASK_RCNN | {"backbone.bottom_up": 1 + 3 * 33 + 4}
# Two convolutions a block; the first stage needs no shortcut. Heads of two convolutions.
DEPTH_18 = {"backbone.bottom_up": 1 + 2 * 8 + 3, "roi_heads.box_head": 2, "roi_heads.mask_head": 2}
PLACES = {
    "R_18_FPN_bn": {},
    "R_18_FPN_gn": FPN | DEPTH_18,
    "101": DEPTH_101,
    "faster_rcnn": BACKBONE | FPN | BOX,
    "cascade": CASCADE,
    "retinanet": RETINANET,
    "mask_rcnn": MASK_RCNN,
}
# and which convolutions are plain, for no norm follows them
RPN = {"proposal_generator.rpn_head." + n for n in ("conv", "objectness_logits", "anchor_deltas")}
PLAIN = {
    "R_18_FPN_bn": None,
    "faster_rcnn": RPN,
    "retinanet": {
        "head.cls_score",
        "head.bbox_pred",
        "backbone.top_block.p6",
        "backbone.top_block.p7",
    },
    "mask_rcnn": RPN | {"roi_heads.mask_head.deconv", "roi_heads.mask_head.predictor"},
}


@each_config
def test_ws_is_where_a_norm_follows_and_nowhere_else(path: Path) -> None:
    model = build(load(path))
    expected, plain = (
        next(value for key, value in table.items() if key in path.stem) for table in (PLACES, PLAIN)
    )
    convs = {n: m for n, m in model.named_modules() if isinstance(m, nn.modules.conv._ConvNd)}
    ws = [name for name, conv in convs.items() if isinstance(conv, WeightStandardized)]
    assert {p: sum(name.startswith(p) for name in ws) for p in expected} == expected
    assert len(ws) == sum(expected.values())
    assert plain in (set(convs) - set(ws), None)


def test_norms_are_what_the_name_says() -> None:
    """GN freezes stem and res2 as Detectron2's GN config does; BCN, all new, freezes nothing."""
    for gn_path in LAZY:
        if "2x_gn" not in gn_path.stem or "accum" in gn_path.stem:
            continue
        gn_cfg, bcn_cfg = load(gn_path), load(gn_path.stem.replace("gn", "bcn"))
        gn, bcn = build(gn_cfg), build(bcn_cfg)
        norms = {n: m for n, m in gn.named_modules() if isinstance(m, nn.GroupNorm)}
        assert {(type(m), m.num_groups) for m in norms.values()} == {(nn.GroupNorm, 32)}
        assert frozen(gn) == {"stem", "res2"} and not frozen(bcn)
        # the same model but for the norms, so that the GN+WS weights fill every kernel
        for name, norm in norms.items():
            other = bcn.get_submodule(name)
            assert type(other) is BatchChannelNorm2d and type(other.bn) is EstBatchNorm2d
            assert (other.num_channels, other.num_groups) == (norm.num_channels, 32)
        rest = [{n: s for n, s in shapes(m).items() if ".norm." not in n} for m in (gn, bcn)]
        assert rest[0] == rest[1]
        if "8x1" not in gn_path.stem:  # where GN, too, has one image a GPU
            assert bcn_cfg.train.pop("clip_grad") == {"max_norm": 35}
        for key in ("dataloader", "lr_multiplier", "optimizer", "train"):
            assert gn_cfg[key] == bcn_cfg[key]


@pytest.mark.parametrize(
    "name", [f"scratch_mask_rcnn_R_50_FPN_3x_gn_ws.{e}" for e in ("py", "yaml")]
)
def test_from_scratch_freezes_and_loads_nothing(name: str) -> None:
    cfg = load(name)
    assert (cfg.MODEL.WEIGHTS if isinstance(cfg, CfgNode) else cfg.train.init_checkpoint) == ""
    assert not frozen(build(cfg))


def test_weights_are_those_that_mmengine_lists() -> None:
    """Oracle: MMEngine's addresses of the WS authors' backbones; a file's name ends in its hash."""
    checkpoint = pytest.importorskip("mmengine.runner.checkpoint", reason="needs MMEngine")
    listed = checkpoint.get_external_models()
    for path in (*LAZY, *YAML):
        cfg = load(path)
        weights = cfg.MODEL.WEIGHTS if isinstance(cfg, CfgNode) else cfg.train.init_checkpoint
        if "scratch" in path.stem or "demo" in path.stem:
            assert weights == ""
            continue
        name = {"101": "resnet101", "X_101": "resnext101_32x4d", "R_50": "resnet50"}
        key = next(name[key] for key in ("X_101", "101", "R_50") if key in path.stem)
        assert weights.split("/")[-1] == listed[f"jhu/{key}_gn_ws"].split("/")[-1]


def lr_after(cfg: DictConfig, iteration: float) -> float:
    return cfg.optimizer.lr * instantiate(cfg.lr_multiplier)(iteration / cfg.train.max_iter)


@pytest.mark.parametrize(
    ("name", "images", "passes"),
    [
        (R50, 16, 1),
        (f"{R50}_8x1", 8, 1),
        (R50.replace("gn", "bcn") + "_8x1", 8, 1),
        (f"{R50}_1x1_accum16", 1, 16),
    ],
)
def test_micro_batch_recipes_follow_the_linear_rule(name: str, images: int, passes: int) -> None:
    """Oracle: lr 0.02 * batch / 16, and what a batch of 16 does after as many images."""
    cfg = load(name)
    assert cfg.dataloader.train.total_batch_size == images
    assert cfg.train.get("accumulation_steps", 1) == passes
    assert ("clip_grad" in cfg.train) is (images < 16)
    batch = images * passes
    peak = 0.02 * batch / 16
    assert cfg.train.max_iter * batch == 180_000 * 16
    assert cfg.train.eval_period * batch == cfg.train.checkpointer.period * batch == 5000 * 16
    expected = {
        0: 0.001,
        500: 0.5005,
        1000: 1,
        119_999: 1,
        120_001: 0.1,
        159_999: 0.1,
        160_001: 0.01,
    }
    for iteration, part in expected.items():
        assert lr_after(cfg, iteration * 16 / batch) == pytest.approx(peak * part), iteration


@each_lazy
def test_schedule_is_what_the_name_says(path: Path) -> None:
    """Oracle: the images of Detectron2's 1x, 90,000 iterations of 16."""
    cfg = load(path)
    if "demo" in path.stem:
        return
    times = 3 if "3x" in path.stem else 2
    batch = cfg.dataloader.train.total_batch_size * cfg.train.get("accumulation_steps", 1)
    assert cfg.train.max_iter * batch == times * 90_000 * 16
    if times == 3:  # the last 60,000 and 20,000 iterations
        for iteration, part in {209_999: 1, 210_001: 0.1, 249_999: 0.1, 250_001: 0.01}.items():
            assert lr_after(cfg, iteration) == pytest.approx(0.02 * part), iteration


#: What every yaml changes in Detectron2's config of the same detector with GN, or adds.
COMMON = {
    "MODEL.BACKBONE.NAME": "build_ws_resnet_fpn_backbone",
    "MODEL.WEIGHTS": "https://download.openmmlab.com/pretrain/third_party/resnet50_gn_ws-15beedd8.pth",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "INPUT.FORMAT": "RGB",
    "TEST.EVAL_PERIOD": 5000,
    "MODEL.WS.NUM_GROUPS": 32,
    "MODEL.WS.ESTIMATE": True,
    "MODEL.WS.MOMENTUM": 0.1,
    "MODEL.WS.FORMULA": "ws",
    "MODEL.WS.ADAPTIVE": False,
    "SOLVER.ACCUMULATION_STEPS": 1,
    "SOLVER.ON_NAN": "stop",
    "SOLVER.CLIP_GRAD_NORM": 0.0,
}
BOX_HEAD = {"MODEL.ROI_BOX_HEAD.NAME": "WSFastRCNNConvFCHead"}
MASK_HEAD = {"MODEL.ROI_MASK_HEAD.NAME": "WSMaskRCNNConvUpsampleHead"}
#: What Detectron2's configs without GN lack besides.
GN = {
    "MODEL.RESNETS.NORM": "GN",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.FPN.NORM": "GN",
}
GN_BOX = {
    "MODEL.ROI_BOX_HEAD.NORM": "GN",
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 4,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
}
BCN = {f"MODEL.{n}.NORM": "BCN" for n in ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD")}


@pytest.mark.parametrize(
    ("name", "theirs", "changes"),
    [
        ("mask_rcnn_R_50_FPN_3x_gn_ws", "Misc/mask_rcnn_R_50_FPN_3x_gn", BOX_HEAD | MASK_HEAD),
        (
            "scratch_mask_rcnn_R_50_FPN_3x_gn_ws",
            "Misc/scratch_mask_rcnn_R_50_FPN_3x_gn",
            BOX_HEAD | MASK_HEAD | {"MODEL.WEIGHTS": None},
        ),
        (
            "mask_rcnn_R_50_FPN_2x_bcn_ws",
            "Misc/mask_rcnn_R_50_FPN_3x_gn",
            BOX_HEAD
            | MASK_HEAD
            | BCN
            | {
                "MODEL.BACKBONE.FREEZE_AT": 0,
                "SOLVER.STEPS": (120_000, 160_000),
                "SOLVER.MAX_ITER": 180_000,
                "SOLVER.CLIP_GRAD_NORM": 35.0,
            },
        ),
        (
            "faster_rcnn_R_50_FPN_1x_gn_ws",
            "COCO-Detection/faster_rcnn_R_50_FPN_1x",
            GN | GN_BOX | BOX_HEAD | MASK_HEAD | {"MODEL.ROI_MASK_HEAD.NORM": "GN"},
        ),
        (
            "cascade_mask_rcnn_R_50_FPN_3x_gn_ws",
            "Misc/cascade_mask_rcnn_R_50_FPN_3x",
            GN | GN_BOX | BOX_HEAD | MASK_HEAD | {"MODEL.ROI_MASK_HEAD.NORM": "GN"},
        ),
        (
            "retinanet_R_50_FPN_1x_gn_ws",
            "COCO-Detection/retinanet_R_50_FPN_1x",
            GN
            | {
                "MODEL.RETINANET.NORM": "GN",
                "MODEL.META_ARCHITECTURE": "WSRetinaNet",
                "MODEL.BACKBONE.NAME": "build_ws_retinanet_resnet_fpn_backbone",
            },
        ),
    ],
)
def test_yaml_differs_from_detectron2s_own_in_the_intended_fields(
    name: str, theirs: str, changes: dict[str, Any]
) -> None:
    """Oracle: Detectron2's yaml; None stands for a field that is as theirs."""
    mine, own = flat(load(f"{name}.yaml")), flat(model_zoo.get_config(f"{theirs}.yaml"))
    different = {key: value for key, value in mine.items() if value != own.get(key)}
    assert set(own) <= set(mine)
    assert different == {k: v for k, v in (COMMON | changes).items() if v is not None}


@pytest.mark.parametrize(
    "stem", sorted({p.stem for p in LAZY} & {p.stem for p in YAML}), ids=lambda stem: stem
)
def test_py_and_yaml_of_one_name_mean_the_same(stem: str) -> None:
    """Oracle: each other."""
    lazy, yaml = load(f"{stem}.py"), load(f"{stem}.yaml")
    models = build(lazy), build(yaml)
    assert shapes(models[0]) == shapes(models[1])
    assert layers(models[0]) == layers(models[1])
    for name in ("pixel_mean", "pixel_std"):
        values = OmegaConf.to_container(lazy.model.module[name])
        assert values == yaml.MODEL[name.upper()]

    mapper = lazy.dataloader.train.mapper
    assert mapper.image_format == lazy.model.module.input_format == yaml.INPUT.FORMAT
    assert mapper.augmentations[0].short_edge_length == list(yaml.INPUT.MIN_SIZE_TRAIN)
    assert lazy.dataloader.train.dataset.names == yaml.DATASETS.TRAIN[0]
    assert lazy.dataloader.test.dataset.names == yaml.DATASETS.TEST[0]
    assert lazy.dataloader.train.total_batch_size == yaml.SOLVER.IMS_PER_BATCH
    train = lazy.train
    assert train.init_checkpoint == yaml.MODEL.WEIGHTS
    assert train.max_iter == yaml.SOLVER.MAX_ITER
    assert train.eval_period == yaml.TEST.EVAL_PERIOD
    assert train.checkpointer.period == yaml.SOLVER.CHECKPOINT_PERIOD
    assert train.get("clip_grad", {}).get("max_norm", 0) == yaml.SOLVER.CLIP_GRAD_NORM

    lazy.optimizer.params.model = models[0]
    optimizers = instantiate(lazy.optimizer), build_optimizer(yaml, models[1])
    for ours, theirs in zip(*(optimizer.param_groups for optimizer in optimizers), strict=True):
        assert len(ours["params"]) == len(theirs["params"])
        for key in ("lr", "momentum", "weight_decay", "nesterov"):
            assert ours[key] == theirs[key]
    schedules = instantiate(lazy.lr_multiplier), build_lr_scheduler(yaml, optimizers[1])._multiplier
    for part in torch.linspace(0, 0.999, 1000).tolist():
        assert schedules[0](part) == pytest.approx(schedules[1](part))


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        (R50, "mask-rcnn_r50_fpn_gn-ws-all_2x_coco"),
        (R50.replace("R_50", "R_101"), "mask-rcnn_r101_fpn_gn-ws-all_2x_coco"),
        (R50.replace("R_50", "X_101_32x4d"), "mask-rcnn_x101-32x4d_fpn_gn-ws-all_2x_coco"),
        (R50.replace("gn", "bcn"), "mask-rcnn_r50_fpn_bcn-ws-all_2x_coco"),
        (DEMO, "mask-rcnn_r18_fpn_gn-ws-all_2xb1-demo_shapes"),
        (DEMO.replace("gn_ws", "bn"), "mask-rcnn_r18_fpn_bn_2xb1-demo_shapes"),
    ],
)
def test_model_is_that_of_the_mmdetection_config(name: str, theirs: str) -> None:
    """Oracle: MMDetection's model, whose parameters have the same shapes under other names."""
    pytest.importorskip("mmdet", reason="needs MMDetection")
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules(init_default_scope=True)
    with torch.device("meta"):
        twin = MODELS.build(Config.fromfile(config_path(theirs)).model)
    parameters = [
        sorted((tuple(p.shape), p.requires_grad) for p in model.parameters())
        for model in (build(load(name)), twin)
    ]
    assert parameters[0] == parameters[1]


def test_demo_recipe_is_that_of_the_mmdetection_demo() -> None:
    """Oracle: the numbers of configs/mmdet/_base_/mask-rcnn_r18_fpn_shapes.py, read as text."""
    cfg = load(DEMO)
    assert cfg.train.max_iter == 1800
    peak, warmup, last = 2e-3, 140, 1800
    for iteration in range(0, 1800, 7):
        progress = (iteration - warmup) / (last - warmup)
        expected = (1 + math.cos(math.pi * progress)) / 2
        if iteration < warmup:
            expected = 0.01 + 0.99 * iteration / warmup
        assert lr_after(cfg, iteration) == pytest.approx(peak * expected), iteration
    model = build(cfg)
    cfg.optimizer.params.model = model
    (group,) = instantiate(cfg.optimizer).param_groups  # one: norms decay as well
    assert (group["weight_decay"], group["betas"]) == (0.02, (0.9, 0.999))
    assert (cfg.train.clip_grad.max_norm, cfg.train.seed) == (10, 0)
