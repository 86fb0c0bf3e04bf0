"""What a yaml config asks for, see ``recipe``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.engine import DefaultTrainer
from detectron2.solver import build_lr_scheduler, build_optimizer
from torch import nn

from ws_det.detectron2 import heads
from ws_det.detectron2.mapper import NamedMapper
from ws_det.detectron2.set_files import Wants
from ws_det.detectron2.stream import build_train_loader, seed_sampler
from ws_det.detectron2.tta import settings


class YamlRecipe:
    """A yaml config, with the keys that ``add_ws_config`` adds."""

    checkpoint_option = "MODEL.WEIGHTS FILE"

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg
        solver = cfg.SOLVER
        self.output_dir: str = cfg.OUTPUT_DIR
        self.weights: str = cfg.MODEL.WEIGHTS
        self.max_iter: int = solver.MAX_ITER
        self.eval_period: int = cfg.TEST.EVAL_PERIOD
        self.log_period: int = 20  # that of DefaultTrainer
        self.checkpoint: dict[str, Any] = {"period": solver.CHECKPOINT_PERIOD}
        self.amp: bool = solver.AMP.ENABLED
        self.ddp: dict[str, Any] = {"broadcast_buffers": False}
        self.seed: int = cfg.SEED
        self.accumulation: int = solver.ACCUMULATION_STEPS
        self.max_norm: float | None = solver.CLIP_GRAD_NORM or None
        self.on_nan: str = solver.ON_NAN
        self.tta: dict[str, Any] = settings(cfg.TEST.AUG)
        self.proposals: bool = cfg.MODEL.LOAD_PROPOSALS
        precise = cfg.TEST.PRECISE_BN
        self.precise_bn: int | None = precise.NUM_ITER if precise.ENABLED else None
        self.expected: list[Any] = cfg.TEST.EXPECTED_RESULTS
        self.device: str = cfg.MODEL.DEVICE if torch.cuda.is_available() else "cpu"
        self.batch_size: int = solver.IMS_PER_BATCH
        self.base_batch: int = self.batch_size * self.accumulation
        self.train_sets, self.test_sets = list(cfg.DATASETS.TRAIN), list(cfg.DATASETS.TEST)

    @property
    def learning_rate(self) -> float:
        """That of the optimizer."""
        return self.cfg.SOLVER.BASE_LR

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.cfg.SOLVER.BASE_LR = value

    def enable_tta(self) -> None:
        """Test with augmentation too."""
        self.cfg.TEST.AUG.ENABLED = self.tta["enabled"] = True

    @staticmethod
    def lead_to(cfg: CfgNode, sets: Sequence[str], num_classes: int) -> None:
        """Let a config use two registered sets, and its heads as many classes."""
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (sets[0],), (sets[1],)
        heads.set_yaml(cfg.MODEL, num_classes)

    def num_classes(self) -> list[int]:
        """Of each head."""
        return heads.counts_of_yaml(self.cfg.MODEL)

    def wants(self) -> Wants:
        """What it wants of its sets."""
        model = self.cfg.MODEL
        return Wants(
            self.train_sets,
            self.test_sets,
            masks=model.MASK_ON,
            mask_format=self.cfg.INPUT.MASK_FORMAT if model.MASK_ON else None,
            keypoints=model.KEYPOINT_ON,
            num_keypoints=model.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS,
        )

    def build_model(self) -> nn.Module:
        """The model, on the CPU."""
        cfg = self.cfg.clone()
        cfg.MODEL.DEVICE = "cpu"
        return DefaultTrainer.build_model(cfg)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a model."""
        return build_optimizer(self.cfg, model)

    def build_schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        """What Detectron2's ``LRScheduler`` hook takes."""
        return build_lr_scheduler(self.cfg, optimizer)

    def train_mapper(self) -> NamedMapper:
        """That of the training images."""
        return NamedMapper(DatasetMapper(self.cfg, is_train=True))

    def build_train_loader(self, seed: int, skip: int) -> Any:
        """See ``stream.build_train_loader``."""
        seed_sampler(seed)
        cfg = self.cfg.clone()
        cfg.SEED = seed  # that of some samplers
        arguments = build_detection_train_loader.from_config(cfg)
        arguments["mapper"] = self.train_mapper()
        return build_train_loader(**arguments, seed=seed, skip=skip)

    def build_precise_loader(self, seed: int) -> Any:
        """The training images from the first on, read in this process as Detectron2 does it."""
        cfg = self.cfg.clone()
        cfg.DATALOADER.NUM_WORKERS = 0
        return YamlRecipe(cfg).build_train_loader(seed, 0)

    def workers(self) -> dict[str, dict[str, Any]]:
        """As that of a LazyConfig."""
        return {"DATALOADER": {"num_workers": self.cfg.DATALOADER.NUM_WORKERS}}

    def build_test_loader(self, name: str) -> Any:
        """Of a test set."""
        mapper = NamedMapper(DatasetMapper(self.cfg, is_train=False))
        return build_detection_test_loader(self.cfg, name, mapper=mapper)
