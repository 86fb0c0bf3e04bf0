"""What a user has to set, beside loading converted weights, to get the same results.

Kernels are never changed for another input convention: the weights say what images they expect,
and the config has to give them such. (The first kernel could take over another order and deviation
of the colours, but a WS convolution could not: standardization looks at all channels together.)
"""

from __future__ import annotations

from typing import NamedTuple

from ws_det.family import Family
from ws_det.formats.spec import Format, State


class Images(NamedTuple):
    """What images weights expect: the order of the colours, and mean and deviation of 0..255."""

    order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


_IMAGENET = Images("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_CAFFE = Images("BGR", (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0))
_HALF = Images("RGB", (127.5,) * 3, (127.5,) * 3)

_WHERE = {
    "mmdet": "bgr_to_rgb, mean and std of its data_preprocessor",
    "detectron2": "INPUT.FORMAT, MODEL.PIXEL_MEAN and MODEL.PIXEL_STD of its config",
}


def notes_on(
    canonical: State, source: Format, target: Format, detector: bool, family: Family
) -> list[str]:
    """The notes on a conversion.

    Args:
        canonical: The weights, with canonical names.
        source: The format that they come from.
        target: The format that they go to.
        detector: Whether they are of more than a backbone.
        family: How they were trained.
    """
    pre_activation = any(key.startswith("v2.") for key in canonical)
    notes = [_on_images(source, target, detector, pre_activation)]
    notes += _on_heads(canonical, source, target)
    if {source.name, target.name} & {"mmdet", "detectron2"}:
        stride = {"mmdet": "style='pytorch'", "detectron2": "MODEL.RESNETS.STRIDE_IN_1X1 False"}
        ends = [stride[f.name] for f in (source, target) if f.name in stride]
        notes.append(
            f"bottlenecks have their stride in the 3x3 convolution with {' and '.join(ends)}, in "
            f"the 1x1 convolution otherwise: both sides have to agree"
        )
    if family.ws and not family.folded and not pre_activation:
        use = {
            "mmdet": "conv_cfg=dict(type='WSConv2d') wherever a norm follows",
            "detectron2": "convert_to_ws around the model, or in a yaml config our WS parts",
        }.get(target.name, "ws_det.convert_to_ws(model)")
        notes.append(f"kernels: they were trained with WS, so the model needs {use}")
    return notes


def _on_images(source: Format, target: Format, detector: bool, pre_activation: bool) -> str:
    known = {
        # the fork's defaults, which its configs keep
        "jhu": _CAFFE if detector else _IMAGENET,
        "torchvision": _IMAGENET,
        "timm": _HALF if pre_activation else _IMAGENET,
        "bit": _HALF,
    }
    if source.name not in known:
        return (
            f"images: {source.title}'s weights do not say which they expect: copy "
            f"{_WHERE[source.name]} to {_settings(None, target)}"
        )
    return f"images: set {_settings(known[source.name], target)}"


def _settings(images: Images | None, target: Format) -> str:
    if images is None:
        return _WHERE.get(target.name, "the normalization of your images")
    mean, std = list(images.mean), list(images.std)
    if target.name == "mmdet":
        return f"data_preprocessor bgr_to_rgb={images.order == 'RGB'}, mean={mean}, std={std}"
    if target.name == "detectron2":
        return f"INPUT.FORMAT {images.order}, MODEL.PIXEL_MEAN {mean}, MODEL.PIXEL_STD {std}"
    scaled = [[round(v / 255, 6) for v in values] for values in (mean, std)]
    return f"{images.order} of 0..1, mean {scaled[0]}, deviation {scaled[1]}"


def _on_heads(canonical: State, source: Format, target: Format) -> list[str]:
    notes = []
    ends = (source.name, target.name)
    if "fpn.extra7.conv.weight" in canonical and "mmdet" in ends:
        notes.append(
            "level 7: MMDetection has a ReLU before its convolution only with "
            "neck.relu_before_extra_convs=True, the others always"
        )
    if "retina.reg.weight" in canonical and set(ends) == {"mmdet", "detectron2"}:
        notes.append(
            "boxes: MMDetection clips those of RetinaNet to the image before the NMS, Detectron2 "
            "after it, as MMDetection does with bbox_coder.clip_border=False"
        )
    if "box.cls.weight" in canonical and "jhu" in ends:
        notes.append(
            "boxes: the authors' fork counts a pixel more in width and height, and pools with "
            "RoIAlign not aligned: MMDetection has LegacyAnchorGenerator, "
            "LegacyDeltaXYWHBBoxCoder and aligned=False for it, Detectron2 POOLER_TYPE ROIAlign"
        )
    if "torchvision" in ends and any(k.startswith(("rpn.", "retina.")) for k in canonical):
        notes.append(
            "boxes: torchvision rounds its anchors to whole pixels and pools with RoIAlign not "
            "aligned, so that results differ a little"
        )
    classes = len(canonical.get("box.cls.bias", ())) - 1
    if source.name == "torchvision" and classes == 90:
        notes.append("classes: 90, COCO's ids 1 to 90 with ten that are not used: num_classes=90")
    return notes
