"""Weight Standardization and Batch-Channel Normalization for detectors at 1-2 images per GPU.

Importing this package loads torch and nothing heavier. ``import ws_det.mmdet`` registers the
layers with MMDetection.
"""

from ws_det import renaming as _renaming  # noqa: F401  converted models take other names
from ws_det.convert import convert_to_ws, plan_conversion
from ws_det.errors import InputError
from ws_det.fold import fold_ws
from ws_det.functional import FORMULAS, standardize_weight
from ws_det.layers import WSConv1d, WSConv2d, WSConv3d, WSConvTranspose2d
from ws_det.norms import BatchChannelNorm2d, EstBatchNorm2d
from ws_det.paths import config_path

__version__ = "0.1.0"

__all__ = [
    "FORMULAS",
    "BatchChannelNorm2d",
    "EstBatchNorm2d",
    "InputError",
    "WSConv1d",
    "WSConv2d",
    "WSConv3d",
    "WSConvTranspose2d",
    "config_path",
    "convert_to_ws",
    "fold_ws",
    "plan_conversion",
    "standardize_weight",
]
