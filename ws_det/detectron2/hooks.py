"""The hook that keeps EstBN right in Detectron2's training loop."""

from __future__ import annotations

import logging

from detectron2.engine import HookBase
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


def frozen_statistics(model: nn.Module) -> list[str]:
    """Names of the EstBN and BCN layers whose parameters are frozen, and statistics with them."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (EstBatchNorm2d, BatchChannelNorm2d))
        and not any(parameter.requires_grad for parameter in module.parameters())
        and not name.endswith(".bn")  # counted with its BCN
    ]
