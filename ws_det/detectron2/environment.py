"""Say in one sentence what Detectron2 lacks, before an import says it in thirty lines."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from ws_det.errors import FrameworkError, first_line

_INSTALL = (
    "`pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2'` "
    "beside torch and torchvision"
)


def require_detectron2() -> None:
    """Check that Detectron2 can be used. It is on no registry, so only imports are asked.

    Raises:
        FrameworkError: It is not installed, its compiled operators or torchvision's do not load,
            or an import fails for another reason.
    """
    if find_spec("detectron2") is None:
        raise FrameworkError(
            f"detectron2 cannot be imported, which ws_det.detectron2 needs: install it with "
            f"{_INSTALL}, or see Installation in README.md"
        )
    try:
        import_module("torchvision.ops")
    except (ImportError, RuntimeError) as error:  # RuntimeError: its operators are not there
        raise FrameworkError(
            f"torchvision cannot be imported ({first_line(error)}): install the build that belongs "
            f"to your torch, which detectron2 needs"
        ) from None
    try:
        import_module("detectron2._C")
    except ImportError as error:
        raise FrameworkError(
            f"detectron2 is installed without working operators ({first_line(error)}): build it "
            f"again with {_INSTALL}"
        ) from None
    try:
        import_module("detectron2.modeling")
    except Exception as error:  # an AttributeError, for example, if Pillow is newer than it knows
        raise FrameworkError(
            f"detectron2 cannot be imported ({first_line(error)}): install its main branch with "
            f"{_INSTALL}"
        ) from None
