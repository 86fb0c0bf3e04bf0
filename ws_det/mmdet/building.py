"""Build what a run is made of, as far as that costs little, to refuse what cannot be built."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS, DefaultScope
from mmengine.runner import Runner
from torch import nn

from ws_det.errors import InputError, first_line
from ws_det.mmdet.nodes import dicts_of
from ws_det.mmdet.options import keys_read

_LONG = 10**6  # batches in an epoch, of which the schedules are told before the data are read


@contextmanager
def building(cfg: Config, what: str) -> Iterator[None]:
    """Build a part of a config, in its own scope: a run before in this process leaves another.

    Args:
        cfg: The config.
        what: The part, for the message.

    Raises:
        InputError: In place of any other error.
    """
    try:
        with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmdet")):
            yield
    except InputError:
        raise
    except Exception as error:  # classes of a config are anyone's
        raise InputError(
            f"the config's {what} cannot be built ({type(error).__name__}: {first_line(error)}): "
            f"correct it"
        ) from error


def check_loaders(cfg: Config, parts: Sequence[str]) -> None:
    """Build the data sets without their annotations, and loaders and samplers without the sets.

    Args:
        cfg: The config, complete.
        parts: The dataloaders in use.

    Raises:
        InputError: For the first one that cannot be built.
    """
    for part in parts:
        loader = cfg.get(f"{part}_dataloader")
        if not isinstance(loader, dict):
            continue
        with building(cfg, f"{part}_dataloader.dataset"):
            for node in dicts_of(loader.get("dataset")):
                _check_dataset(node)
        # the two: a sampler that asks more of the data set than its length
        with building(cfg, f"{part}_dataloader"), suppress(AssertionError, AttributeError):
            Runner.build_dataloader({**loader, "dataset": range(_LONG)}, seed=0)


def check_optimization(cfg: Config, model: nn.Module) -> None:
    """Build the optimizer with its schedules, and clip a gradient.

    Args:
        cfg: The config, complete.
        model: Built of it, changed in nothing.

    Raises:
        InputError: For the first one that cannot be built.
    """
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)  # the run says it all again
    try:
        with building(cfg, "optim_wrapper"):
            kind = (cfg.optim_wrapper.get("optimizer") or {}).get("type")
            if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
                raise KeyError(f"{kind} is not in the registry of optimizers")
            wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    finally:
        logger.setLevel(level)
    if not isinstance(wrapper, OptimWrapper):
        return  # several optimizers
    _check_clipping(wrapper)
    schedulers = cfg.get("param_scheduler") or []
    for index, scheduler in enumerate([schedulers] if isinstance(schedulers, dict) else schedulers):
        # As MMEngine has it, a loop by iterations is one epoch.
        ends = cfg.train_cfg.get("max_epochs") or 1, cfg.train_cfg.get("max_iters") or _LONG
        settings = {"end": ends[not scheduler.get("by_epoch", True)], **copy.deepcopy(scheduler)}
        with building(cfg, f"param_scheduler.{index}"):
            arguments = dict(optimizer=wrapper, epoch_length=_LONG)
            PARAM_SCHEDULERS.build(settings, default_args=arguments)


def _check_dataset(node: Any) -> None:
    cls = DATASETS.get(node["type"]) if isinstance(node.get("type"), str) else node.get("type")
    if not inspect.isclass(cls):
        return
    if issubclass(cls, BaseDataset):
        built = DATASETS.build({**copy.deepcopy(node), "lazy_init": True})
        takes_img = getattr(cls, "parse_data_info", None) is CocoDataset.parse_data_info
        if takes_img and "img" not in built.data_prefix:
            raise KeyError("data_prefix has no 'img', the folder of the images below data_root")
    elif "dataset" in node or "datasets" in node:  # a wrapper, which would read them
        unknown = sorted(node.keys() - (keys_read(node) or node.keys()))
        if unknown:
            raise TypeError(f"{cls.__name__} takes no {unknown[0]!r}")
        for transform in node.get("pipeline") or ():
            TRANSFORMS.build(copy.deepcopy(transform))


def _check_clipping(wrapper: OptimWrapper) -> None:
    if not wrapper.clip_grad_kwargs:
        return
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    try:
        wrapper.clip_func([weight], **wrapper.clip_grad_kwargs)
        reason = "" if weight.grad > 0 else f"a gradient of 1 becomes {weight.grad.item():g}"
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
    if reason:
        given = ", ".join(f"{key}={value!r}" for key, value in wrapper.clip_grad_kwargs.items())
        raise InputError(
            f"optim_wrapper.clip_grad with {given} cannot clip ({reason}): give as "
            f"dict(max_norm=35, norm_type=2)"
        )
