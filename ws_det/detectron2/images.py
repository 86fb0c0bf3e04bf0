"""Images that Detectron2's own reader gets wrong without a word."""

from __future__ import annotations

from typing import Any

from detectron2.data import DatasetMapper

from ws_det.errors import InputError
from ws_det.images import TURNED_BY_DECODERS, check_depth, opened, orientation


def check_image(path: str, mapper: Any) -> None:
    """Check that an image can be read, and by Detectron2's own mapper is read rightly.

    Args:
        path: Of the image.
        mapper: That reads it; what one of the user's own does is not known.

    Raises:
        InputError: If it is damaged or no image; if it is a TIFF with an orientation, for Pillow
            turns it as it decodes and Detectron2 again; if it is gray with values over 255.
    """
    with opened(path) as image:
        is_theirs = isinstance(mapper, DatasetMapper)
        if not is_theirs or type(mapper).__call__ is not DatasetMapper.__call__:
            return
        if image.format == TURNED_BY_DECODERS and orientation(image) != 1:
            raise InputError(
                f"the image {path} is a TIFF with an orientation, and Detectron2 would turn it "
                f"twice: save it upright, without one"
            )
        check_depth(image, path)
