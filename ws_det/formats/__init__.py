"""State dict to state dict between MMDetection, Detectron2, torchvision, timm, BiT, and jhu.

A format is a table of the names that it has for the modules of a network, against one canonical
naming (layout.py), in a file of its own. ``jhu`` are the WS and BCN authors' releases.
"""

from ws_det.formats.convert import Converted, convert_state
from ws_det.formats.recognize import FORMATS, recognize
from ws_det.formats.spec import Format

__all__ = ["FORMATS", "Converted", "Format", "convert_state", "recognize"]
