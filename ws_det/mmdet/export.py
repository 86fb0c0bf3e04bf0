"""Export the features of a detector of MMDetection to ONNX.

MMDetection has no exporter of its own for the rest; mmdeploy is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ws_det.errors import InputError
from ws_det.export import export_onnx, feature_axes, feature_examples, require_onnx
from ws_det.mmdet.folding import load_detector


class Features(nn.Module):
    """Backbone and neck: (N, 3, H, W), normalized -> one feature map a level."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.neck = detector.neck if detector.with_neck else None

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """All levels, the largest first."""
        features = self.backbone(image)
        return tuple(features if self.neck is None else self.neck(features))


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
    """Export backbone and neck.

    Args:
        config: Path of a config, or the name of a supplied one.
        checkpoint: Path or URL of its weights.
        path: The file to write.
        shape: Height and width of the image that is traced.
        whole: Refused.
        options: As in ``load_detector``.
        data_root: As in ``load_detector``.
        say: What takes a line of progress.

    Returns:
        As ``export_onnx``.

    Raises:
        InputError: As ``load_detector`` and ``export_onnx``, or if the whole detector is asked for.
    """
    if whole:
        raise InputError(
            "--whole: MMDetection has no exporter for whole detectors: leave it out, or fold the "
            "checkpoint with tools/fold_checkpoint.py and export it with mmdeploy"
        )
    require_onnx()
    examples = feature_examples(shape)
    features = Features(load_detector(config, checkpoint, options, data_root).model)
    features.eval()
    with torch.no_grad():
        levels = [f"level{index}" for index, _ in enumerate(features(examples[0]))]
    return export_onnx(features, examples, path, feature_axes(levels), say)
