"""The hooks that keep EstBN right in MMEngine's training loop, and that compile."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ws_det.errors import InputError
from ws_det.estimates import StepEstimates
from ws_det.norms import BatchChannelNorm2d, EstBatchNorm2d


@HOOKS.register_module(force=True)  # force: reloading the module must be harmless
class SyncEstBNHook(Hook):
    """Keep the estimates of EstBN equal on all ranks, and move them once per optimizer step.

    MMEngine wraps DistributedDataParallel with ``broadcast_buffers=False`` and synchronizes no
    buffers; every rank would estimate from its own images. With ``accumulative_counts`` its
    iterations are passes of a step, see ``StepEstimates``. When training starts the hook also
    warns of settings that stop running statistics without a word.
    """

    checkpoint_keys = ("estimates",)

    def __init__(self) -> None:
        self._estimates: StepEstimates | None = None
        self._unfinished: dict[str, Any] | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the step that a checkpoint was saved in, see ``ResumeHook``."""
        self._unfinished = checkpoint.pop("estimates", None)

    def before_train(self, runner: Runner) -> None:
        """Refuse a learning rate that was scaled without the passes of a step."""
        check_scaling(runner)

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Begin a pass; warn of stopped statistics, once: only here every loop called train()."""
        if self._estimates is None:
            self._estimates = StepEstimates(runner.model)
            if self._unfinished is not None:
                self._estimates.load_state_dict(self._unfinished)
            for message in stopped_statistics(runner.model):
                runner.logger.warning(message)
        self._estimates.begin_pass()

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """End a pass, and where the optimizer stepped the step, with one all-reduce."""
        self._estimates.end_pass(last=runner.optim_wrapper.should_update())

    def before_ranks_save(self, runner: Runner) -> None:
        """Make an unfinished step equal on all ranks."""
        if self._estimates:
            self._estimates.average()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add an unfinished step."""
        if self._estimates and self._estimates.passes and "optimizer" in checkpoint:
            checkpoint["estimates"] = self._estimates.state_dict()


@HOOKS.register_module(force=True)
class CompileHook(Hook):
    """Compile backbone and neck, in place, so that checkpoints keep their keys.

    MMEngine's ``compile`` takes the whole detector, whose RoI heads depend on what is on an image
    and break the graph again and again.
    """

    def before_train(self, runner: Runner) -> None:
        """Compile; the first iterations of each image shape take a minute longer."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for part in (getattr(model, name, None) for name in ("backbone", "neck")):
            if part is not None:
                part.compile()


def check_scaling(runner: Runner) -> None:
    """Refuse MMEngine's own ``--auto-scale-lr`` where the optimizer steps once in several passes.

    It counts the images of a pass alone.

    Raises:
        InputError: If both are on, and the runner is not that of tools/train.py.
    """
    passes = getattr(runner.optim_wrapper, "_accumulative_counts", 1)
    scale = runner.auto_scale_lr or {}
    if scale.get("enable") and passes > 1 and type(runner).scale_lr is Runner.scale_lr:
        raise InputError(
            f"MMEngine's --auto-scale-lr does not count the {passes} passes of "
            f"accumulative_counts, and made the learning rate {passes} times too small: train with "
            f"ws_det's tools/train.py, or leave the flag out and set optim_wrapper.optimizer.lr"
        )


def stopped_statistics(model: nn.Module) -> list[str]:
    """Sentences that name each setting which keeps statistics of EstBN or BCN from being learned.

    Args:
        model: In training mode.

    Returns:
        One sentence for each backbone (or other part) with such a setting, and one for layers
        frozen by ``requires_grad=False``; empty if none.
    """
    statistics = {
        name: module for name, module in model.named_modules() if isinstance(module, EstBatchNorm2d)
    }
    statistics |= {
        f"{name}.bn": module.bn
        for name, module in model.named_modules()
        if isinstance(module, BatchChannelNorm2d)
    }
    stopped = [name for name, module in statistics.items() if not module.training]
    messages = []
    for name, part in model.named_modules():
        frozen = getattr(part, "frozen_stages", -1)
        inside = [s for s in stopped if s.startswith(f"{name}." if name else "")]
        if not inside:
            continue
        bn = [s for s in inside if isinstance(statistics[s], nn.modules.batchnorm._BatchNorm)]
        if getattr(part, "norm_eval", False) and bn:
            messages.append(
                f"norm_eval=True of {name or 'the model'} stops the running statistics of "
                f"{len(bn)} BCN layers ({bn[0]}, ...): set norm_eval=False"
            )
        elif isinstance(frozen, int) and frozen >= 0:
            messages.append(
                f"frozen_stages={frozen} of {name or 'the model'} stops the running statistics of "
                f"{len(inside)} EstBN or BCN layers ({inside[0]}, ...): set frozen_stages=-1 "
                f"unless their weights and statistics are pretrained"
            )
    fixed = [
        name
        for name, module in statistics.items()
        if isinstance(module, EstBatchNorm2d) and module.training and not module.learns()
    ]
    if fixed:
        messages.append(
            f"requires_grad=False stops the running statistics of {len(fixed)} EstBN or BCN layers "
            f"({fixed[0]}, ...): set requires_grad=True in norm_cfg unless their weights and "
            f"statistics are pretrained"
        )
    return messages
