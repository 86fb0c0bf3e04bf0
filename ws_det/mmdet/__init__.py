"""The MMDetection adapter: importing it registers the layers and hooks with MMEngine.

In a config: ``custom_imports = dict(imports=["ws_det.mmdet"], allow_failed_imports=False)``.
"""

from ws_det.mmdet.hooks import SyncEstBNHook
from ws_det.mmdet.registry import register_layers

__all__ = ["SyncEstBNHook", "register_layers"]
