"""Load images, and name the one that is damaged."""

from __future__ import annotations

from typing import Any

from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS

from ws_det.errors import InputError
from ws_det.images import opened


@TRANSFORMS.register_module(force=True)
class LoadNamedImage(LoadImageFromFile):
    """MMCV's loader, which does not say in every case which image it could not read."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Load ``results["img_path"]``.

        Raises:
            InputError: If the file cannot be read or decoded.
        """
        path = results["img_path"]
        try:
            # Not for images elsewhere, and TIFF of many channels, which Pillow does not know.
            if "://" not in str(path) and self.imdecode_backend != "tifffile":
                with opened(path):
                    pass
            return super().transform(results)
        except InputError:
            raise
        except Exception as error:
            reason = str(error).strip().rpartition("\n")[2][:80] or type(error).__name__
            raise InputError(f"the image {path} cannot be read ({reason}): replace it") from error
