"""Load images, and name the one that is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS

from ws_det.errors import InputError


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
            return super().transform(results)
        except Exception as error:
            reason = str(error).strip().rpartition("\n")[2][:80] or type(error).__name__
            raise InputError(f"the image {path} cannot be read ({reason}): replace it") from error


@contextmanager
def one_sentence() -> Iterator[None]:
    """Take an ``InputError`` of a data worker out of the traceback that torch wraps it in."""
    try:
        yield
    except InputError as error:
        raise InputError(error.given.rstrip().rpartition("InputError: ")[2]) from None
