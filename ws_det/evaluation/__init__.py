"""COCO evaluation over exchangeable back ends: the same numbers, some far faster."""

from ws_det.evaluation.result import Result

__all__ = ["Result"]
