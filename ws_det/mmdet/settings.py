"""Refuse names and numbers of a config over which a run would stumble when it has begun."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from multiprocessing import get_all_start_methods
from typing import Any

from mmdet.registry import (
    DATASETS,
    EVALUATOR,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    VISBACKENDS,
    VISUALIZERS,
)
from mmengine.config import Config
from mmengine.registry import DefaultScope, Registry

from ws_det.errors import InputError
from ws_det.mmdet.nodes import with_file

_LEVELS = ("NOTSET", "DEBUG", "INFO", "WARN", "WARNING", "ERROR", "CRITICAL", "FATAL")
Named = Iterator[tuple[str, Any, tuple[Registry, ...]]]


def check_settings(cfg: Config, parts: Sequence[str]) -> None:
    """Check the classes that a run is made of besides its model, and how often things are done.

    Args:
        cfg: The config, complete.
        parts: In use.

    Raises:
        InputError: For a class that no registry knows, or a number that cannot be counted to.
    """
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmdet")):
        for where, node, registries in _named(cfg, parts):
            kind = node.get("type") if isinstance(node, dict) else None
            if isinstance(kind, str) and all(r.get(kind) is None for r in registries):
                raise InputError(
                    f"{where}.type={kind!r} is in no registry of a {registries[0].name}: correct "
                    f"the name, or import the module that registers it by custom_imports"
                )
    for where, value, known in _names(cfg):
        if value is not None and value not in known:
            raise InputError(f"{where}={value!r}: give one of {', '.join(known)}")
    for where, value, at_least in _numbers(cfg, parts):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        whole = is_number and value % 1 == 0  # 9e4 too
        if value is not None and not (whole and value >= at_least):
            raise InputError(
                f"{where}={str(value)[:50]}: give a whole number of at least {at_least}"
            )


def _named(cfg: Config, parts: Sequence[str]) -> Named:
    for name, hook in (cfg.get("default_hooks") or {}).items():
        yield f"default_hooks.{name}", hook, (HOOKS,)
    for index, hook in enumerate(cfg.get("custom_hooks") or ()):
        yield f"custom_hooks.{index}", hook, (HOOKS,)
    for part in parts:
        yield f"{part}_cfg", cfg.get(f"{part}_cfg"), (LOOPS,)
        for dataset in with_file(cfg.get(f"{part}_dataloader")):
            yield f"{part}_dataloader.dataset", dataset, (DATASETS,)
        evaluators = cfg.get(f"{part}_evaluator") or []
        for evaluator in [evaluators] if isinstance(evaluators, dict) else evaluators:
            yield f"{part}_evaluator", evaluator, (METRICS, EVALUATOR)
    visualizer = cfg.get("visualizer") or {}
    yield "visualizer", visualizer, (VISUALIZERS,)
    for index, backend in enumerate(visualizer.get("vis_backends") or ()):
        yield f"visualizer.vis_backends.{index}", backend, (VISBACKENDS,)
    yield "log_processor", cfg.get("log_processor"), (LOG_PROCESSORS,)


def _names(cfg: Config) -> Iterator[tuple[str, Any, Sequence[str]]]:
    """Settings, their values and the names that they can have."""
    level = cfg.get("log_level")
    yield "log_level", None if isinstance(level, int) else level, _LEVELS
    starts = (cfg.get("env_cfg") or {}).get("mp_cfg") or {}
    yield "env_cfg.mp_cfg.mp_start_method", starts.get("mp_start_method"), get_all_start_methods()


def _numbers(cfg: Config, parts: Sequence[str]) -> Iterator[tuple[str, Any, int]]:
    """Settings, their values and the least of each."""
    hooks = cfg.get("default_hooks") or {}
    if "train" in parts:
        for key in ("max_iters", "max_epochs", "val_interval"):
            yield f"train_cfg.{key}", cfg.train_cfg.get(key), 1
        every = (hooks.get("checkpoint") or {}).get("interval")
        yield "default_hooks.checkpoint.interval", every, -1  # which is never
        base = (cfg.get("auto_scale_lr") or {}).get("base_batch_size")
        yield "auto_scale_lr.base_batch_size", base, 1
    yield "default_hooks.logger.interval", (hooks.get("logger") or {}).get("interval"), 1
    yield "log_processor.window_size", (cfg.get("log_processor") or {}).get("window_size"), 1
    yield "randomness.seed", (cfg.get("randomness") or {}).get("seed"), 0
