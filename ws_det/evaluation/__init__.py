"""COCO evaluation over exchangeable back ends: the same numbers, some far faster."""

from ws_det.evaluation.backends import BACKENDS
from ws_det.evaluation.coco_eval import evaluate
from ws_det.evaluation.result import Result

__all__ = ["BACKENDS", "Result", "evaluate"]
