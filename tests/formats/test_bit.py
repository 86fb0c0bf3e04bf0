"""BiT's files and timm's networks for them. Oracle: timm's own reader of those files."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from ws_det.checkpoint import load_checkpoint
from ws_det.errors import InputError
from ws_det.formats import convert_state, recognize

np = pytest.importorskip("numpy")


def tiny() -> nn.Module:
    """timm's ResNetV2 with WS, as for BiT, of a few channels."""
    resnetv2 = pytest.importorskip("timm.models.resnetv2", reason="needs timm")
    network = resnetv2.ResNetV2(
        layers=(1, 2, 1, 1),
        channels=(128, 128, 128, 128),
        stem_chs=32,
        num_classes=5,
        conv_layer=resnetv2.StdConv2d,
        norm_layer=resnetv2.GroupNormAct,
        stem_type="fixed",
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network.eval()


def test_timm_reads_what_we_write(tmp_path: Path) -> None:
    saved, loaded = tiny(), tiny()
    converted = convert_state(saved.state_dict(), "bit")
    assert converted.unmatched == converted.needless == []
    np.savez(tmp_path / "bit.npz", **{k: t.numpy() for k, t in converted.state.items()})
    loaded.load_pretrained(str(tmp_path / "bit.npz"))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images), saved(images))

    back = convert_state(load_checkpoint(tmp_path / "bit.npz"), "timm")
    assert back.source.name == "bit" and back.unmatched == []
    assert all(torch.equal(back.state[k], t) for k, t in saved.state_dict().items())
    assert back.state.keys() == saved.state_dict().keys()


def test_names_and_order() -> None:
    """Oracle: names of big_transfer, by hand, and a kernel whose entries say their place."""
    numbers = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)  # (H, W, I, O)
    vector = torch.rand(5)
    state = OrderedDict(
        {
            "resnet/root_block/standardized_conv2d/kernel": numbers,
            "resnet/block3/unit06/b/standardized_conv2d/kernel": numbers,
            "resnet/block3/unit06/b/group_norm/gamma": vector,
            "resnet/block1/unit01/a/group_norm/beta": vector,
            "resnet/block1/unit01/a/proj/standardized_conv2d/kernel": numbers,
            "resnet/group_norm/beta": vector,
            "resnet/head/conv2d/kernel": numbers,
            "resnet/head/conv2d/bias": vector,
        }
    )
    converted = convert_state(state, "timm")
    assert recognize(state).name == "bit" and converted.unmatched == []
    assert list(converted.state) == [
        "stem.conv.weight",
        "stages.2.blocks.5.conv2.weight",
        "stages.2.blocks.5.norm2.weight",
        "stages.0.blocks.0.norm1.bias",
        "stages.0.blocks.0.downsample.conv.weight",
        "norm.bias",
        "head.fc.weight",
        "head.fc.bias",
    ]
    kernel = converted.state["stem.conv.weight"]
    assert kernel.shape == (5, 4, 2, 3) and kernel[4, 3, 1, 2] == numbers[1, 2, 3, 4]
    source = recognize({"stages.0.blocks.0.conv1.weight": None})
    back = convert_state(converted.state, "bit", source).state
    assert list(back) == list(state)
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize("to", ["mmdet", "detectron2", "torchvision", "jhu"])
def test_pre_activation_has_no_counterpart(to: str) -> None:
    state = {"resnet/root_block/standardized_conv2d/kernel": torch.zeros(7, 7, 3, 8)}
    with pytest.raises(InputError, match=r"pre-activation ResNet .*convert it to timm"):
        convert_state(state, to)


def test_no_other_network_becomes_bit() -> None:
    with pytest.raises(InputError, match="BiT has pre-activation"):
        convert_state({"layer1.0.conv1.weight": torch.zeros(1, 1, 1, 1)}, "bit")


def test_what_is_no_name_of_bit_is_unmatched() -> None:
    state = {
        "resnet/root_block/standardized_conv2d/kernel": torch.zeros(7, 7, 3, 8),
        "resnet/block1/unit00/a/group_norm/beta": torch.zeros(2),
        "other": torch.zeros(1),
    }
    assert convert_state(state, "timm").unmatched == list(state)[1:]
