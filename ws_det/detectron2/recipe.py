"""What a config asks for, the same for both kinds of config that Detectron2 has."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.data import (
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from ws_det.detectron2 import heads
from ws_det.detectron2.mapper import NamedMapper
from ws_det.detectron2.set_files import Wants
from ws_det.detectron2.stream import build_train_loader, seed_sampler
from ws_det.detectron2.tta import settings
from ws_det.detectron2.yaml_recipe import YamlRecipe
from ws_det.errors import InputError

# Arguments of Detectron2's loaders that mean nothing to torch's, or not the same.
_OF_DETECTRON2 = ("dataset", "mapper", "sampler", "total_batch_size", "aspect_ratio_grouping")
_OF_DETECTRON2 += ("batch_size", "collate_fn", "drop_last", "seed")


class LazyRecipe:
    """A LazyConfig with detectron2's usual keys, and in ``train`` those of ws_det.

    ``train.accumulation_steps`` (1) passes of ``dataloader.train.total_batch_size`` images make
    an iteration, ``train.clip_grad.max_norm`` (off) bounds the gradient's norm, ``train.seed``
    (random) makes runs repeatable, ``train.on_nan`` ("stop") may be "skip", see ``NanGuard``,
    ``train.tta`` is what ``TEST.AUG`` is in a yaml config, in small letters.
    """

    checkpoint_option = "train.init_checkpoint=FILE"

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        train = cfg.train
        self.output_dir: str = train.output_dir
        self.weights: str = train.init_checkpoint or ""
        self.max_iter: int = int(train.max_iter)
        self.eval_period: int = int(train.eval_period)
        self.log_period: int = int(train.log_period)
        self.checkpoint: dict[str, Any] = dict(train.checkpointer)
        self.amp: bool = train.amp.enabled
        self.ddp: dict[str, Any] = dict(train.ddp)
        self.seed: int = int(train.get("seed", -1))
        self.accumulation: int = int(train.get("accumulation_steps", 1))
        self.max_norm: float | None = (train.get("clip_grad") or {}).get("max_norm")
        self.on_nan: str = train.get("on_nan", "stop")
        self.tta: dict[str, Any] = settings(train.get("tta"))
        self.precise_bn, self.expected = None, []  # which yaml configs have
        loaders = ("dataloader.train", "dataloader.test")
        files = [OmegaConf.select(cfg, f"{loader}.dataset.proposal_files") for loader in loaders]
        self.proposals: bool = any(files)  # whether they come from files
        # Not in the config: what a machine without a GPU saves may go on where one is.
        self.device: str = train.device if torch.cuda.is_available() else "cpu"
        self.batch_size: int = int(cfg.dataloader.train.total_batch_size)
        # Images of a step that the learning rate is for.
        self.base_batch: int = self.batch_size * self.accumulation
        # A function of the user's own that makes dataset dicts has no names.
        self.train_sets = _names(OmegaConf.select(cfg, "dataloader.train.dataset.names") or ())
        test = cfg.dataloader.get("test")
        self.test_sets = _names(test.dataset.names) if test else []

    @property
    def learning_rate(self) -> float | None:
        """That of the optimizer, if it is where Detectron2 has it."""
        return self.cfg.optimizer.get("lr")

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.cfg.optimizer.lr = value

    def enable_tta(self) -> None:
        """Test with augmentation too."""
        self.cfg.train.tta = {**(self.cfg.train.get("tta") or {}), "enabled": True}
        self.tta = settings(self.cfg.train.tta)

    @staticmethod
    def lead_to(cfg: DictConfig, sets: Sequence[str], num_classes: int) -> None:
        """Let a config use two registered sets, and its heads as many classes."""
        for loader, name in zip((cfg.dataloader.train, cfg.dataloader.get("test")), sets):
            if loader and OmegaConf.select(loader, "dataset.names") is None:
                raise InputError(
                    "--data-root has no effect on a dataloader without dataset.names: give the "
                    "config one, as Detectron2's common/data/coco.py has, or leave out --data-root"
                )
            if loader:
                loader.dataset.names = name
        heads.set_lazy(cfg.model, num_classes)

    def num_classes(self) -> list[int]:
        """Of each head."""
        return heads.counts_of_lazy(self.cfg.model)

    def wants(self) -> Wants:
        """What it wants of its sets."""
        parts = {key: node[key] for node in _nodes(self.cfg.model) for key in node}
        mapper = self.cfg.dataloader.train.get("mapper") or {}
        reads_masks = mapper.get("use_instance_mask", False)
        return Wants(
            self.train_sets,
            self.test_sets,
            masks=parts.get("mask_head") is not None,
            mask_format=mapper.get("instance_mask_format", "polygon") if reads_masks else None,
            keypoints=parts.get("keypoint_head") is not None,
            num_keypoints=parts.get("num_keypoints"),
            own_mapper=_located(mapper.get("_target_")) is DatasetMapper,
        )

    def build_model(self) -> nn.Module:
        """The model, on the CPU."""
        return instantiate(self.cfg.model)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a model."""
        optimizer = copy.copy(self.cfg.optimizer)
        optimizer.params.model = model
        return instantiate(optimizer)

    def build_schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        """What Detectron2's ``LRScheduler`` hook takes."""
        return instantiate(self.cfg.lr_multiplier)

    def train_mapper(self) -> NamedMapper | None:
        """That of the training images, if the config names one."""
        mapper = copy.deepcopy(self.cfg.dataloader.train.get("mapper"))
        if mapper is None:
            return None
        flip_maps = [MetadataCatalog.get(n).get("keypoint_flip_map") for n in self.train_sets[:1]]
        if flip_maps not in ([], [None]) and mapper.get("use_keypoint"):
            # the config's own may be those of COCO
            mapper.keypoint_hflip_indices = create_keypoint_hflip_indices(self.train_sets)
        return NamedMapper(instantiate(mapper))

    def build_train_loader(self, seed: int, skip: int) -> Any:
        """See ``stream.build_train_loader``; another loader of the config's stays as it is."""
        seed_sampler(seed)
        loader = copy.deepcopy(self.cfg.dataloader.train)
        if mapper := self.train_mapper():
            loader.mapper = mapper
        if _located(loader._target_) is build_detection_train_loader:
            loader._target_ = build_train_loader
            loader.seed, loader.skip = seed, skip
        return instantiate(loader)

    def workers(self) -> dict[str, dict[str, Any]]:
        """What Detectron2's own loaders leave to torch's DataLoader, by its place in the config."""
        found = {}
        for part, own in (
            ("train", build_detection_train_loader),
            ("test", build_detection_test_loader),
        ):
            loader = self.cfg.dataloader.get(part)
            if loader and _located(loader.get("_target_")) is own:
                left = {k: loader[k] for k in loader if k not in (*_OF_DETECTRON2, "_target_")}
                found[f"dataloader.{part}"] = left
        return found

    def build_test_loader(self, name: str) -> Any:
        """Of a test set."""
        loader = copy.deepcopy(self.cfg.dataloader.test)
        loader.dataset.names = name
        if "mapper" in loader:
            loader.mapper = NamedMapper(instantiate(loader.mapper))
        return instantiate(loader)


Recipe = LazyRecipe | YamlRecipe


def dataset_dicts(name: str) -> list[dict[str, Any]]:
    """A test set's dataset dicts, empty images included."""
    return get_detection_dataset_dicts(name, filter_empty=False)


def _located(target: Any) -> Any:
    """What a target is; a config that was saved as yaml has its name."""
    return locate(target) if isinstance(target, str) else target


def _names(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _nodes(node: Any) -> Iterator[DictConfig]:
    """All dicts of a config."""
    if isinstance(node, DictConfig):
        yield node
        children = [node._get_node(key) for key in node]
    elif isinstance(node, ListConfig):
        children = [node._get_node(index) for index in range(len(node))]
    else:
        return
    for child in children:
        yield from _nodes(child)
