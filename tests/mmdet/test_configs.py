"""The supplied MMDetection configs: each one runs, and the published ones are MMDetection's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

mmdet = pytest.importorskip("mmdet")

from mmdet.registry import MODELS  # noqa: E402
from mmdet.testing import demo_mm_inputs  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.config import Config  # noqa: E402
from torch import nn  # noqa: E402

import ws_det.mmdet  # noqa: E402, F401
from ws_det import EstBatchNorm2d, WSConv2d, config_path  # noqa: E402

CONFIGS = sorted(Path(__file__).resolve().parents[2].glob("configs/mmdet/*.py"))
THEIRS = Path(mmdet.__file__).parent / ".mim" / "configs"
PUBLISHED = sorted(THEIRS.glob("gn+ws/*.py"))
R50 = "mask-rcnn_r50_fpn_gn-ws-all_2x_coco"

register_all_modules(init_default_scope=True)


def ours(name: str) -> Config:
    return Config.fromfile(config_path(name))


def plain(value: Any) -> Any:
    """A config without what says where it was inherited from, mmcv's WS under our name."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key != "_scope_"}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return "WSConv2d" if value == "ConvWS" else value


def shrink(model: Any) -> None:
    """Fewer layers and RoIs; the kind of every layer stays. Pretrained weights need a network."""
    model.backbone.init_cfg = None
    if model.backbone.type == "ResNeXt":
        model.backbone.depth = 50
    elif model.backbone.depth > 18:
        model.backbone.depth = 18
        model.neck.in_channels = [64, 128, 256, 512]
    if "rpn_head" in model:
        model.train_cfg.rpn_proposal.update(nms_pre=50, max_per_img=8)
        model.test_cfg.rpn.update(nms_pre=50, max_per_img=8)
        rcnn = model.train_cfg.rcnn
        for stage in rcnn if isinstance(rcnn, list) else [rcnn]:
            stage.sampler.num = 8


def finish(model: nn.Module, data: dict) -> dict[str, float]:
    """One loss + backward: every loss is finite and reaches every parameter that trains."""
    data = model.data_preprocessor(data, training=True)
    total, losses = model.parse_losses(model(**data, mode="loss"))
    total.backward()
    assert all(torch.isfinite(value) for value in losses.values())
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    return losses


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_trains_a_step_and_predicts(path: Path) -> None:
    torch.manual_seed(0)
    cfg = Config.fromfile(path)
    shrink(cfg.model)
    model = MODELS.build(cfg.model)
    model.init_weights()
    classes = 5  # the least that any of the heads has
    data = demo_mm_inputs(2, [[3, 64, 96], [3, 64, 64]], num_classes=classes, with_mask=True)
    losses = finish(model.train(), data)
    assert {"loss_cls", "s0.loss_cls"} & set(losses)
    assert ("mask" in path.stem) == any("loss_mask" in name for name in losses)

    data = model.eval().data_preprocessor(data, training=False)
    with torch.no_grad():
        results = model(**data, mode="predict")
    assert len(results) == 2
    for result in results:
        assert torch.isfinite(result.pred_instances.bboxes).all()
        assert ("masks" in result.pred_instances) == ("mask" in path.stem)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_config_is_mmdetections_own(path: Path) -> None:
    """Oracle: MMDetection's file of the same name, field by field, and its state dict."""
    theirs, mine = Config.fromfile(path), ours(path.stem)
    assert set(mine) - set(theirs) == {"custom_hooks", "custom_imports", "layers"}
    for key in set(theirs) - {"conv_cfg", "norm_cfg", "max_epochs"}:  # helpers of their file
        assert plain(mine[key]) == plain(theirs[key]), key
    with torch.device("meta"):
        shapes = [
            {name: tensor.shape for name, tensor in MODELS.build(cfg.model).state_dict().items()}
            for cfg in (mine, theirs)
        ]
    assert shapes[0] == shapes[1]
    assert any(".gn1." in name for name in shapes[0])


def test_gn_baseline_is_mmdetections_own() -> None:
    """Oracle: MMDetection's gn config, whose AP the README quotes."""
    name = "mask-rcnn_r50_fpn_gn-all_2x_coco"
    theirs, mine = Config.fromfile(THEIRS / "gn" / f"{name}.py"), ours(name)
    for key in set(theirs) - {"norm_cfg", "max_epochs"}:
        assert plain(mine[key]) == plain(theirs[key]), key


def test_r50_gives_mmdetections_outputs_under_equal_weights(in_float64: None) -> None:
    """Oracle: MMDetection's own R50 GN+WS model, with norms moved away from the identity."""
    torch.manual_seed(0)
    models = []
    for cfg in (Config.fromfile(THEIRS / "gn+ws" / f"{R50}.py"), ours(R50)):
        cfg.model.backbone.init_cfg = None
        cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=20)  # untrained scores are low
        cfg.model.test_cfg.rpn.update(nms_pre=50, max_per_img=20)
        models.append(MODELS.build(cfg.model).eval())
    theirs, mine = models
    for module in theirs.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    assert not any(mine.load_state_dict(theirs.state_dict()))
    assert sum(isinstance(m, WSConv2d) for m in mine.modules()) == 53 + 8 + 4 + 4

    data = demo_mm_inputs(1, [[3, 96, 128]], num_classes=80)
    # In float64, so that what remains of rounding after 50 layers is far below a real fault.
    models = [model.double() for model in models]
    data["inputs"] = [x.double() for x in data["inputs"]]
    data = theirs.data_preprocessor(data, training=False)
    with torch.no_grad():
        features = [model.extract_feat(data["inputs"]) for model in models]
        torch.testing.assert_close(features[1], features[0], rtol=1e-8, atol=1e-8)
        rpn = [model.rpn_head(level) for model, level in zip(models, features)]
        torch.testing.assert_close(rpn[1], rpn[0], rtol=1e-8, atol=1e-8)
        found = [model(**data, mode="predict")[0].pred_instances for model in models]
    assert len(found[0]) == 20 and found[0].scores.dtype == torch.float64
    torch.testing.assert_close(found[1].labels, found[0].labels)
    torch.testing.assert_close(found[1].scores, found[0].scores, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[1].bboxes, found[0].bboxes, rtol=0, atol=1e-4)  # pixels
    assert (found[1].masks == found[0].masks).float().mean() > 0.99  # a pixel may sit on 0.5


@pytest.mark.parametrize("backbone", ["r50", "r101", "x50-32x4d", "x101-32x4d"])
def test_bcn_config_differs_from_gn_in_its_norms_alone(backbone: str) -> None:
    """Oracle: the GN+WS model, so that its backbone weights fill every BCN+WS kernel."""
    bcn, gn = (ours(f"mask-rcnn_{backbone}_fpn_{norm}-ws-all_2x_coco") for norm in ("bcn", "gn"))
    assert bcn.model.backbone.init_cfg == gn.model.backbone.init_cfg
    assert (bcn.model.backbone.frozen_stages, bcn.model.backbone.norm_eval) == (-1, False)
    hooks = [{"type": "NanGuardHook"}, {"type": "SyncEstBNHook"}]
    assert bcn.custom_hooks == hooks
    with torch.device("meta"):
        models = [MODELS.build(cfg.model) for cfg in (bcn, gn)]
    kernels = [
        {n: m.weight.shape for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
        for model in models
    ]
    assert kernels[0] == kernels[1]
    # BCN counts as a GroupNorm, so that its parameters follow the norm rule for weight decay
    bcns, gns = (
        {n: m for n, m in model.named_modules() if isinstance(m, nn.GroupNorm)} for model in models
    )
    assert {name.replace("bcn", "gn") for name in bcns} == set(gns)
    assert all(isinstance(norm.bn, EstBatchNorm2d) for norm in bcns.values())


@pytest.mark.parametrize(
    ("settings", "gpus", "images", "passes"),
    [("2x", 8, 2, 1), ("8xb1-2x", 8, 1, 1), ("1xb1-accum16-2x", 1, 1, 16)],
)
def test_micro_batch_recipes_follow_the_linear_rule(
    settings: str, gpus: int, images: int, passes: int
) -> None:
    """Oracle: lr = 0.02 * effective batch / 16, and a warm-up that shows 500 * 16 images."""
    cfg = ours(f"mask-rcnn_r50_fpn_gn-ws-all_{settings}_coco")
    assert cfg.train_dataloader.batch_size == images
    assert cfg.optim_wrapper.get("accumulative_counts", 1) == passes
    assert cfg.optim_wrapper.optimizer.lr == 0.02 * gpus * images * passes / 16
    warmup, steps = cfg.param_scheduler
    assert not warmup.by_epoch and warmup.end * gpus * images == 500 * 16
    assert (warmup.start_factor, steps.milestones, steps.end) == (0.001, [16, 22], 24)
    assert ("clip_grad" in cfg.optim_wrapper) is (settings != "2x")
    # --auto-scale-lr must not scale once more what is already scaled
    assert cfg.auto_scale_lr.base_batch_size == gpus * images * passes


def test_baselines_differ_in_the_norm_alone() -> None:
    """Oracle: the GN+WS model has a norm where the baselines have theirs, and the same schedule."""
    names = {"BatchNorm2d": "bn", "SyncBatchNorm": "syncbn", "GroupNorm": "gn"}
    recipe = ours(R50)
    with torch.device("meta"):
        places = {
            n for n, m in MODELS.build(recipe.model).named_modules() if isinstance(m, nn.GroupNorm)
        }
        for kind, name in names.items():
            cfg = ours(f"mask-rcnn_r50_fpn_{name}-all_2x_coco")
            model = MODELS.build(cfg.model).train()
            norms = {n: m for n, m in model.named_modules() if "Norm" in type(m).__name__}
            assert {type(m).__name__ for m in norms.values()} == {kind}
            # mmdet names a norm after its kind: gn1 or bn1, in ConvModule gn or bn
            assert {n.replace("bn", "gn") for n in norms} == places
            if kind != "GroupNorm":  # these train on their batch, the frozen stages aside
                still = {n for n, m in norms.items() if not m.training}
                assert all(n.startswith(("backbone.bn1", "backbone.layer1.")) for n in still)
            for key in ("train_cfg", "param_scheduler", "optim_wrapper", "train_dataloader"):
                assert cfg[key] == recipe[key]


def test_from_scratch_freezes_and_loads_nothing() -> None:
    """Oracle: MMDetection's scratch config (GN without WS), whose schedule it shares."""
    theirs = Config.fromfile(THEIRS / "scratch/mask-rcnn_r50-scratch_fpn_gn-all_6x_coco.py")
    mine = ours("mask-rcnn_r50-scratch_fpn_gn-ws-all_6x_coco")
    for key in ("train_cfg", "param_scheduler", "optim_wrapper", "train_dataloader"):
        assert plain(mine[key]) == plain(theirs[key]), key
    assert "Pretrained" not in mine.pretty_text.split("model = ")[1]
    with torch.device("meta"):
        model = MODELS.build(mine.model).train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())
