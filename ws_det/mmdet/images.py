"""Load images upright, and name the one that is damaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS

from ws_det.depth import check_depth
from ws_det.errors import InputError
from ws_det.images import (
    TURNED_BY_DECODERS,
    check_size,
    opened,
    orientation,
    upright,
)
from ws_det.masks import is_size

_TURNING = ("color", "grayscale")  # the flags with which mmcv turns images by their EXIF data


@TRANSFORMS.register_module(force=True)
class LoadNamedImage(LoadImageFromFile):
    """MMCV's loader, which does not say in every case which image it could not read.

    With MMCV's own, it depends on the back end and on the format whether an image is turned by its
    EXIF orientation: OpenCV 4 leaves WebP and AVIF as they lie, and turbojpeg JPEG. Here all are
    turned, unless ``color_type`` says ``unchanged`` or ``..._ignore_orientation``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.turns = turns(vars(self))
        backend = self.imdecode_backend or mmcv.image.io.imread_backend
        if self.turns and backend != "turbojpeg":  # which leaves all as they lie, and has no flag
            self.color_type += "_ignore_orientation"

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Load ``results["img_path"]``.

        Raises:
            InputError: If the file cannot be read or decoded, or its annotations are of an image
                of another size.
        """
        path = results["img_path"]
        stored = 1
        try:
            # Not for images elsewhere, and TIFF of many channels, which Pillow does not know.
            if "://" not in str(path) and self.imdecode_backend != "tifffile":
                with opened(path) as image:
                    if self.turns and image.format != TURNED_BY_DECODERS:
                        stored = orientation(image)
                    if self.imdecode_backend == "pillow":
                        check_depth(image, path)
            results = super().transform(results)
        except InputError:
            raise
        except Exception as error:
            reason = str(error).strip().rpartition("\n")[2][:80] or type(error).__name__
            raise InputError(f"the image {path} cannot be read ({reason}): replace it") from error
        if results is None:  # to be left out if it is empty
            return None
        if stored != 1:
            results["img"] = np.ascontiguousarray(upright(results["img"], stored))
            results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
        stated = results.get("height"), results.get("width")
        if is_size(stated):
            check_size(path, results["img_shape"], stated)
        return results


def turns(loader: Mapping[str, Any]) -> bool:
    """Whether a loader, by its settings, turns images by their EXIF orientation.

    Args:
        loader: A config of type ``LoadImageFromFile``; where it does not turn them, ``turn=False``
            of ``ws_det.images.image_size`` gives the size that a model sees.
    """
    color_type = loader.get("color_type", "color")
    return color_type in _TURNING and loader.get("imdecode_backend") != "tifffile"
