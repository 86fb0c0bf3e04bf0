"""LazyConfigs that leave things out, or refer to what is not there."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detectron2 import model_zoo
from fvcore.common.checkpoint import PeriodicCheckpointer
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.nn.parallel import DistributedDataParallel

from ws_det.errors import InputError, first_line

_NEEDED = ("model", "dataloader.train", "optimizer", "lr_multiplier", "train")
_COUNTS = {"max_iter": 0, "eval_period": 0, "log_period": 1, "accumulation_steps": 0, "seed": -1}
_KEYWORDS = {
    "checkpointer": {*list(inspect.signature(PeriodicCheckpointer).parameters)[1:]},
    "ddp": {*list(inspect.signature(DistributedDataParallel).parameters)[1:], "fp16_compression"},
    "amp": {"enabled"},
    "clip_grad": {"max_norm"},
}


@contextmanager
def one_sentence(path: str) -> Iterator[None]:
    """Turn an error of OmegaConf's, which has a traceback and three lines, into a sentence.

    Args:
        path: Of the config.

    Raises:
        InputError: In its place.
    """
    try:
        yield
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise InputError(
            f"the config {path} has no usable value ({key}{first_line(error)}): give it one, in "
            f"the config or with key.path=VALUE"
        ) from None


def complete(cfg: DictConfig, path: str) -> None:
    """Give ``train`` what Detectron2's own configs have there, where a config leaves it out.

    Args:
        cfg: A LazyConfig, changed in place.
        path: Of it, for the message.

    Raises:
        InputError: If a part of a detector is not there at all.
    """
    for key in _NEEDED:
        if OmegaConf.select(cfg, key) is None:
            raise InputError(f"the config {path} has no {key!r}: give a config of a whole detector")
    if isinstance(cfg.train, DictConfig):
        for key, value in model_zoo.get_config("common/train.py").train.items():
            if not OmegaConf.is_missing(cfg.train, key):  # which OmegaConf holds for not there
                cfg.train.setdefault(key, value)
        for key, inner, value in (("checkpointer", "period", 5000), ("amp", "enabled", False)):
            if isinstance(cfg.train.get(key), DictConfig):
                cfg.train[key].setdefault(inner, value)


def check_values(cfg: DictConfig, path: str) -> None:
    """Check that all that is read has a value, and what is read from ``train`` by its type.

    Args:
        cfg: A LazyConfig with the options.
        path: Of it, for the message.

    Raises:
        InputError: For the first fault found.
    """
    _check_loaders(cfg.dataloader, path)
    if missing := sorted(OmegaConf.missing_keys(cfg)):  # Detectron2 saves no config with one
        raise InputError(
            f"the config {path} leaves {missing[0]} open ('???'): give it a value with "
            f"{missing[0]}=VALUE"
        )
    OmegaConf.to_container(cfg, resolve=True)
    for key, least in _COUNTS.items():
        value = cfg.train.get(key, least)
        if not _is_whole(value) or value < least:
            raise InputError(f"train.{key}={value}: give a whole number, {least} or more")
    if not isinstance(cfg.train.output_dir, str):
        raise InputError(f"train.output_dir={cfg.train.output_dir}: give a folder")
    images = cfg.dataloader.train.total_batch_size
    if not _is_whole(images) or images < 1:
        raise InputError(f"dataloader.train.total_batch_size={images}: give a whole number from 1")
    for key, known in _KEYWORDS.items():
        if key != "clip_grad" or cfg.train.get(key) is not None:
            _check_keywords(cfg.train[key], f"train.{key}", known)


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value % 1 == 0


def _check_loaders(loaders: Any, path: str) -> None:
    for name, needed in (
        ("train", ("total_batch_size",)),
        ("test", ("dataset.names",)),
    ):
        loader = loaders.get(name)
        if name == "test" and loader is None:
            continue
        if not isinstance(loader, DictConfig):
            raise InputError(
                f"dataloader.{name} of the config {path} is a {type(loader).__name__}, not one "
                f"loader: give one, and several sets as dataloader.{name}.dataset.names=[A,B]"
            )
        size = loader.get("total_batch_size", 1) if name == "train" else 1
        if not _is_whole(size) or size < 1:
            raise InputError(f"dataloader.train.total_batch_size={size}: give a whole number")
        for key in needed:
            if OmegaConf.select(loader, key, throw_on_missing=False) is None:
                raise InputError(
                    f"the config {path} has no dataloader.{name}.{key}: give it one, as "
                    f"Detectron2's common/data/coco.py has"
                )


def _check_keywords(node: Any, key: str, known: set[str]) -> None:
    names = [f".{name}" for name in node] if isinstance(node, DictConfig) else [""]
    for wrong in [name for name in names if name[1:] not in known]:
        raise InputError(
            f"{key}{wrong} is not what Detectron2 takes: give "
            f"{key}.NAME=VALUE with a NAME of {', '.join(sorted(known))}"
        )
