"""The hooks that keep the statistics of norms right in Detectron2's training loop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from detectron2.engine import HookBase, hooks
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from ws_det.estimates import StepEstimates
from ws_det.norms import BatchChannelNorm2d, EstBatchNorm2d

_log = logging.getLogger("detectron2.ws_det")  # below the one that Detectron2 sets up


class SyncEstBNHook(HookBase):
    """Keep the estimates of EstBN equal on all ranks, and move them once per optimizer step.

    Detectron2 wraps DistributedDataParallel with ``broadcast_buffers=False``; every rank would
    estimate from its own images. Registered before the checkpointer, so that what is saved is
    what all ranks have. ``AccumulatingTrainer`` also says where a pass of a step ends, see
    ``StepEstimates``.
    """

    def before_train(self) -> None:
        """Warn of statistics that were frozen."""
        self._estimates = StepEstimates(self.trainer.model)
        frozen = frozen_statistics(self.trainer.model)
        if frozen:
            _log.warning(
                f"{len(frozen)} EstBN or BCN layers are frozen and learn no statistics "
                f"({frozen[0]}, ...): set freeze_at=0 (MODEL.BACKBONE.FREEZE_AT 0) unless their "
                f"weights and statistics are pretrained"
            )

    def before_step(self) -> None:
        """Begin the first pass."""
        self._estimates.begin_pass()

    def between_passes(self) -> None:
        """End a pass that is not the last of its step, and begin the next."""
        self._estimates.end_pass(last=False)
        self._estimates.begin_pass()

    def after_step(self) -> None:
        """End the step, with one all-reduce."""
        self._estimates.end_pass()


class PreciseStatistics(hooks.PreciseBN):
    """Detectron2's PreciseBN: batch norms get their mean statistics before an evaluation.

    EstBN, in BCN too, keeps its estimates, and computes meanwhile as in an evaluation. The images
    are the same each time, so that a resumed run has the statistics of one that never stopped.

    Args:
        period: Of the evaluation.
        model: In training mode.
        build_loader: Makes the loader of the images, when the run has its seed.
        num_iter: Batches of it.
    """

    def __init__(
        self, period: int, model: nn.Module, build_loader: Callable[[], Any], num_iter: int
    ) -> None:
        super().__init__(period, model, None, num_iter)
        self._build_loader = build_loader

    def before_train(self) -> None:
        """Warn of a model without batch norm."""
        if not get_bn_modules(self.trainer.model):
            _log.warning(
                "TEST.PRECISE_BN.ENABLED has no effect: the model has no batch norm that learns "
                "(EstBN, in BCN too, keeps its estimates)"
            )

    def update_stats(self) -> None:
        """Compute them."""
        if self._disabled:
            return
        if self._data_loader is None:
            self._data_loader = self._build_loader()
        self._data_iter = None
        estimated = [m for m in self._model.modules() if isinstance(m, EstBatchNorm2d)]
        learning = [layer for layer in estimated if layer.training]
        for layer in learning:
            layer.eval()
        super().update_stats()
        for layer in learning:
            layer.train()


def frozen_statistics(model: nn.Module) -> list[str]:
    """Names of the EstBN and BCN layers whose parameters are frozen, and statistics with them."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (EstBatchNorm2d, BatchChannelNorm2d))
        and not any(parameter.requires_grad for parameter in module.parameters())
        and not name.endswith(".bn")  # counted with its BCN
    ]
