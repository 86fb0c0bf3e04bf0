"""Load images, and name the one that is damaged."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS
from PIL import Image

from ws_det.errors import InputError

_COMPLETE_ENDS = (b"\xff\xd9", b"IEND\xaeB`\x82")  # of JPEG and PNG


@TRANSFORMS.register_module(force=True)
class LoadNamedImage(LoadImageFromFile):
    """MMCV's loader, except that it refuses a damaged image and says which.

    OpenCV fills the lost part of a truncated file with grey and only mutters on stderr.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Load ``results["img_path"]``.

        Raises:
            InputError: If the file cannot be decoded to its end.
        """
        path = results["img_path"]
        try:
            loaded = super().transform(results)
            _check_end(path)
        except Exception as error:
            raise InputError(
                f"the image {path} cannot be read ({str(error).splitlines()[-1][:80]}): replace it"
            ) from error
        return loaded


@contextmanager
def one_sentence() -> Iterator[None]:
    """Take an ``InputError`` of a data worker out of the traceback that torch wraps it in."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).rstrip().rpartition("InputError: ")[2]) from None


def _check_end(path: str) -> None:
    with open(path, "rb") as file:
        file.seek(-8, io.SEEK_END)
        complete = file.read().rstrip(b"\0").endswith(_COMPLETE_ENDS)
    if not complete:  # or something follows the picture, which is harmless: Pillow knows
        with Image.open(path) as image:
            image.load()
