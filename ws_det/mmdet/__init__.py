"""The MMDetection adapter: importing it registers the layers and hooks with MMEngine.

In a config: ``custom_imports = dict(imports=["ws_det.mmdet"], allow_failed_imports=False)``.
"""

from ws_det.mmdet.environment import require_mmdet

require_mmdet()  # before the imports that need it

from ws_det.mmdet.curves import CurvesHook  # noqa: E402
from ws_det.mmdet.guard import NanGuardHook  # noqa: E402
from ws_det.mmdet.hooks import CompileHook, SyncEstBNHook  # noqa: E402
from ws_det.mmdet.pictures import NamedVisualizationHook, PicturesHook  # noqa: E402
from ws_det.mmdet.registry import register_layers  # noqa: E402

__all__ = [
    "CompileHook",
    "CurvesHook",
    "NamedVisualizationHook",
    "NanGuardHook",
    "PicturesHook",
    "SyncEstBNHook",
    "register_layers",
]
