"""What a user's config can name, and that naming it twice does no harm."""

import importlib
import subprocess
import sys

import pytest
import torch

pytest.importorskip("mmdet", reason="needs MMDetection")

from mmcv.cnn import ConvModule, build_conv_layer, build_norm_layer, build_upsample_layer
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import nn

import ws_det.mmdet.registry
from ws_det import layers, norms, plan_conversion

BCN = dict(type="BCN", num_groups=4, estimate=True)


def test_custom_imports_register_in_the_root():
    """Oracle: a fresh interpreter, mmengine's own Config, the root registry alone."""
    program = (
        "from mmengine.config import Config\n"
        "from mmengine.registry import MODELS\n"
        "Config.fromstring(\"custom_imports = dict(imports=['ws_det.mmdet'], "
        "allow_failed_imports=False)\", '.py')\n"
        "names = ['WSConv1d', 'WSConv2d', 'WSConv3d', 'WSConvTranspose2d', 'BCN', 'EstBN']\n"
        "print([MODELS.get(name).__name__ for name in names])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == str(
        ["WSConv1d", "WSConv2d", "WSConv3d", "WSConvTranspose2d",
         "BatchChannelNorm2d", "EstBatchNorm2d"]
    )  # fmt: skip


def test_importing_again_and_beside_conv_ws_is_harmless():
    """Oracle: mmcv's own classes still in their places after reloads of the adapter."""
    importlib.reload(ws_det.mmdet.registry)
    importlib.reload(ws_det.mmdet.hooks)
    importlib.reload(ws_det.mmdet)
    assert MODELS.get("ConvWS").__module__ == "mmcv.cnn.bricks.conv_ws"
    assert MODELS.get("WSConv2d") is layers.WSConv2d


def test_a_name_held_by_another_project_is_an_error():
    """Oracle: KeyError that names the holder; nothing is overwritten."""
    held = MODELS.module_dict["EstBN"]
    MODELS.module_dict["EstBN"] = nn.Identity
    try:
        with pytest.raises(KeyError, match=r"EstBN is already registered by torch\.nn"):
            ws_det.mmdet.registry.register_layers()
        assert MODELS.get("EstBN") is nn.Identity
    finally:
        MODELS.module_dict["EstBN"] = held


def test_builders_take_our_types():
    """Oracle: mmcv's builders and the names they give, which are the checkpoint's keys."""
    conv = build_conv_layer(dict(type="WSConv2d", formula="bcn"), 4, 8, 3, bias=False)
    assert type(conv) is layers.WSConv2d and conv.formula == "bcn"
    up = build_upsample_layer(
        dict(type="WSConvTranspose2d", in_channels=4, out_channels=8, kernel_size=2, stride=2)
    )
    assert type(up) is layers.WSConvTranspose2d
    name, norm = build_norm_layer(BCN, 8, postfix=1)
    assert name == "bcn1" and isinstance(norm.bn, norms.EstBatchNorm2d)
    name, norm = build_norm_layer(dict(type="EstBN", requires_grad=False, momentum=0.2), 8)
    assert name == "estbn" and norm.momentum == 0.2 and not norm.weight.requires_grad


def test_conv_module():
    """Oracle: the layers put together by hand."""
    module = ConvModule(4, 8, 3, conv_cfg=dict(type="WSConv2d"), norm_cfg=BCN).eval()
    assert module.conv.bias is None and module.norm_name == "bcn"
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(module(x), module.bcn(module.conv(x)).relu())


def test_pairing_knows_the_order_of_a_conv_module():
    """Oracle: ConvModule's documented order; with the norm first, nothing follows the conv."""
    norm_cfg = dict(type="BN")
    after = ConvModule(8, 8, 3, norm_cfg=norm_cfg)
    before = ConvModule(8, 8, 3, norm_cfg=norm_cfg, order=("norm", "act", "conv"))
    none = ConvModule(8, 8, 3)
    actions = [plan_conversion(m)[0].action for m in (after, before, none)]
    assert actions == ["convert", "skip", "skip"]


@pytest.mark.parametrize(
    "backbone, convolutions",
    [
        (dict(type="ResNet", depth=18), 20),  # 1 stem, 16 in blocks, 3 shortcuts
        (dict(type="ResNet", depth=50), 53),  # 1 stem, 48 in blocks, 4 shortcuts
        (dict(type="ResNeXt", depth=50, groups=32, base_width=4), 53),
        # Res2Net: 1 stem, 16 blocks of 2 and 3 inner convolutions, 4 shortcuts + 2 of a deep stem
        (dict(type="Res2Net", depth=50), 87),
    ],
)
def test_pairing_finds_every_convolution_of_a_backbone(backbone, convolutions):
    """Oracle: the arithmetic of the architectures; every convolution there has its norm."""
    from mmdet.registry import MODELS as MMDET_MODELS

    plan = plan_conversion(MMDET_MODELS.build(backbone))
    assert [c.action for c in plan].count("convert") == len(plan) == convolutions


def test_bcn_follows_the_norm_rule_for_weight_decay():
    """Oracle: mmengine's own optimizer constructor with norm_decay_mult=0."""
    model = nn.Sequential(
        layers.WSConv2d(4, 8, 3, bias=False),
        norms.BatchChannelNorm2d(8, 4, estimate=True),
        norms.BatchChannelNorm2d(8, 4),
        norms.EstBatchNorm2d(8),
    )
    wrapper = build_optim_wrapper(
        model,
        dict(
            type="OptimWrapper",
            optimizer=dict(type="SGD", lr=0.1, weight_decay=0.5),
            paramwise_cfg=dict(norm_decay_mult=0.0),
        ),
    )
    decay = {g["params"][0]: g["weight_decay"] for g in wrapper.optimizer.param_groups}
    for name, parameter in model.named_parameters():
        assert decay[parameter] == (0.5 if name == "0.weight" else 0.0), name
