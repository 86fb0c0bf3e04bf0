"""The hook that stops MMEngine's training, or skips a step, where a loss is NaN or infinite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ws_det.errors import InputError
from ws_det.guard import NanGuard, check_on_nan, gradient_norm
from ws_det.mmdet.hooks import check_scaling


@HOOKS.register_module(force=True)
class NanGuardHook(Hook):
    """Check losses and gradient before the optimizer steps, see ``NanGuard``.

    MMEngine's own CheckInvalidLossHook looks after the step, when the weights are spoilt.

    Args:
        on_nan: "stop", or "skip" the step.
    """

    def __init__(self, on_nan: str = "stop") -> None:
        check_on_nan(on_nan)
        self.on_nan = on_nan

    def before_train(self, runner: Runner) -> None:
        """Watch the model and the optimizer."""
        check_scaling(runner)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._guard = NanGuard(model, _names, runner.work_dir, self.on_nan)
        optimizer = runner.optim_wrapper.optimizer
        self._handle = optimizer.register_step_pre_hook(lambda *_: self._before_step(runner))

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Check the losses of a step that mixed precision skipped, with its gradients."""
        if runner.optim_wrapper.should_update() and self._guard.unchecked:
            self._check(runner, None)

    def after_train(self, runner: Runner) -> None:
        """Leave the model as it was."""
        self._handle.remove()
        self._guard.close()

    def _before_step(self, runner: Runner) -> None:
        wrapper = runner.optim_wrapper
        if wrapper.clip_grad_kwargs and wrapper.grad_name == "grad_norm":
            norm = runner.message_hub.get_scalar("train/grad_norm").current()  # it is at hand
        else:
            groups = wrapper.optimizer.param_groups
            norm = gradient_norm(p for group in groups for p in group["params"])
        self._check(runner, norm)

    def _check(self, runner: Runner, norm: Any) -> None:
        try:
            self._guard.check(runner.iter + 1, norm)
        except InputError:
            if runner.rank:  # all stop, one speaks
                raise SystemExit(2) from None
            raise


def _names(inputs: Any, data_samples: Sequence[Any] | None = None, **_: Any) -> list[str]:
    metas = [getattr(sample, "metainfo", {}) for sample in data_samples or ()]
    return [f"{meta.get('img_path')} (id {meta.get('img_id')})" for meta in metas]
