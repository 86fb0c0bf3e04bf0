"""Export a detector of Detectron2 to ONNX: backbone and FPN, or the whole by its own adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.export import TracingAdapter
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor, nn

from ws_det.detectron2.folding import load_detector
from ws_det.export import export_onnx, feature_axes, feature_examples, require_onnx


class Features(nn.Module):
    """A backbone: (N, 3, H, W), normalized -> one feature map a level."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """All levels, the largest first."""
        return tuple(self.backbone(image).values())


def export(
    config: str,
    checkpoint: str,
    path: str,
    shape: Sequence[int],
    whole: bool,
    options: Sequence[str] = (),
    data_root: str | None = None,
    say: Callable[[str], None] = print,
) -> float:
    """Export the backbone with its FPN, or the whole detector.

    Args:
        config: Path of a config, or the name of a supplied one.
        checkpoint: Path or URL of its weights.
        path: The file to write.
        shape: Height and width of the image that is traced.
        whole: Whether to export the whole detector: an image of 3 channels from 0 to 255 in the
            config's order -> boxes, classes, masks and scores before the masks are pasted.
        options: As in ``load_detector``.
        data_root: As in ``load_detector``.
        say: What takes a line of progress.

    Returns:
        As ``export_onnx``.

    Raises:
        InputError: As ``load_detector`` and ``export_onnx``.
    """
    require_onnx()
    examples = feature_examples(shape)
    model = load_detector(config, checkpoint, options, data_root).model
    if not whole:
        features = Features(model.backbone).eval()
        with torch.no_grad():
            levels = list(model.backbone(examples[0]))
        return export_onnx(features, examples, path, feature_axes(levels), say)
    images = [torch.rand_like(example[0]) * 255 for example in examples]
    adapter = TracingAdapter(model, images[0], _infer)
    with torch.no_grad():
        adapter(images[0])
    found = {key: {0: "detections"} for key in adapter.outputs_schema.keys}
    axes: dict[str, dict[int, str]] = {
        "image": {1: "height", 2: "width"}, **found, "image_size": {},
    }  # fmt: skip
    return export_onnx(adapter.eval(), images, path, axes, say, _in_order)


def _infer(model: nn.Module, image: Tensor) -> Any:
    if isinstance(model, GeneralizedRCNN):
        return model.inference([{"image": image}], do_postprocess=False)[0]
    return model([{"image": image}])[0]["instances"]  # RetinaNet has no masks to paste


def _in_order(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Detections in the order of the others: equal scores have none, and rounding makes others."""
    *found, size = ours
    # boxes, classes and what else there is; classes are whole numbers, far apart from each other
    keys = [
        torch.cat([boxes.double(), 1e6 * classes.double()[:, None]], 1)
        for boxes, classes in (ours[:2], theirs[:2])
    ]
    order = torch.cdist(keys[1], keys[0], p=float("inf")).argmin(1)
    if len(order.unique()) < len(order):
        return ours
    return [*(tensor[order] for tensor in found), size]
