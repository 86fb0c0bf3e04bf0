"""Say in one sentence what MMDetection lacks, before an import says it in thirty lines."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from ws_det.errors import FrameworkError, first_line

_PACKAGES = ("mmengine", "mmcv", "mmdet")


def require_mmdet() -> None:
    """Check that MMDetection can be used. Distributions differ, so only imports are asked.

    Raises:
        FrameworkError: A package is not installed, mmcv lacks its compiled operators, or an
            import fails for another reason.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise FrameworkError(
            f"{' and '.join(missing)} cannot be imported, which ws_det.mmdet needs: install "
            f"MMDetection with `pip install ws_det[mmdet]`, or see Installation in README.md"
        )
    try:
        import_module("mmcv._ext")
    except ImportError as error:
        raise FrameworkError(
            f"mmcv is installed without working operators ({first_line(error)}): build it beside "
            f"torch with `MMCV_WITH_OPS=1 pip install --no-build-isolation onedl-mmcv`"
        ) from None
    try:
        import_module("mmdet")
    except (ImportError, AssertionError) as error:  # mmdet asserts the versions it wants
        raise FrameworkError(
            f"mmdet cannot be imported ({first_line(error)}): install versions of mmengine, mmcv "
            f"and mmdet that belong together"
        ) from None
