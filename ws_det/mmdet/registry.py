"""What MMEngine's registries get from ws_det, and what conversion learns about MMDetection."""

from __future__ import annotations

from mmcv.cnn import ConvModule
from mmdet.models.backbones.res2net import Bottle2neck
from mmengine.registry import MODELS
from torch import nn

from ws_det import layers, norms
from ws_det.convert import register_pairing
from ws_det.renaming import pass_on_to_parents

# Names of our own: "ConvWS is already registered" is what users of WS report most.
LAYERS: dict[str, type[nn.Module]] = {
    "WSConv1d": layers.WSConv1d,
    "WSConv2d": layers.WSConv2d,
    "WSConv3d": layers.WSConv3d,
    "WSConvTranspose2d": layers.WSConvTranspose2d,
    "BCN": norms.BatchChannelNorm2d,
    "EstBN": norms.EstBatchNorm2d,
}


def register_layers() -> None:
    """Register the layers in MMEngine's root, where every OpenMMLab package finds them.

    Calling it again is harmless.

    Raises:
        KeyError: If another project holds one of the names.
    """
    # They name the attribute that holds the norm, and so the checkpoint's keys: bcn1.weight.
    norms.BatchChannelNorm2d._abbr_ = "bcn"
    norms.EstBatchNorm2d._abbr_ = "estbn"
    for name, layer in LAYERS.items():
        held = MODELS.module_dict.get(name)
        if held is not None and not held.__module__.startswith("ws_det."):
            raise KeyError(f"{name} is already registered by {held.__module__}: import only one")
        MODELS.register_module(name=name, module=layer, force=True)


def pair_conv_module(parent: nn.Module) -> dict[str, str] | None:
    """The convolution of a ConvModule, unless its order puts the norm first."""
    if not isinstance(parent, ConvModule):
        return None
    norm_follows = parent.order.index("norm") > parent.order.index("conv")
    return {"conv": parent.norm_name} if parent.with_norm and norm_follows else {}


def pair_bottle2neck(parent: nn.Module) -> dict[str, str] | None:
    """Res2Net keeps the inner convolutions and their norms in two parallel lists."""
    if not isinstance(parent, Bottle2neck):
        return None
    pairs = {f"convs.{i}": f"bns.{i}" for i in range(len(parent.convs))}
    return pairs | {"conv1": parent.norm1_name, "conv3": parent.norm3_name}


register_layers()
pass_on_to_parents()
register_pairing(pair_conv_module)
register_pairing(pair_bottle2neck)
