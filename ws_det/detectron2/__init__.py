"""The Detectron2 adapter: importing it registers the WS parts and teaches conversion its blocks.

A yaml names them (``BACKBONE.NAME: build_ws_resnet_fpn_backbone``) after :func:`add_ws_config`; a
LazyConfig wraps a model in ``L(convert_to_ws)(module=model)`` and takes norms from
:func:`get_norm`.
"""

from ws_det.detectron2.environment import require_detectron2

require_detectron2()  # before the imports that need it

from ws_det.detectron2.layers import WSConv2d  # noqa: E402
from ws_det.detectron2.norms import get_norm  # noqa: E402
from ws_det.detectron2.registry import add_ws_config, register_parts  # noqa: E402

__all__ = ["WSConv2d", "add_ws_config", "get_norm", "register_parts"]
