"""One training of the classification studies."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ws_det.study.images import Labelled, load_images
from ws_det.study.network import build

MOMENTUM, DECAY, WARMUP = 0.9, 1e-4, 0.05  # decay of kernels; warm-up is a share of the steps


class Moment(NamedTuple):
    """Where a training is, for who watches it.

    Attributes:
        model: In training mode.
        step: Steps done.
        steps: Of the whole training.
        lr: Of the next step, the peak rate scaled by the schedule.
        images: Of the next step.
        labels: Of the next step.
        validation: Images that are not learned from, other than those held out.
    """

    model: nn.Module
    step: int
    steps: int
    lr: float
    images: Tensor
    labels: Tensor
    validation: Labelled


def train(
    settings: dict[str, Any], folder: Path, watch: Callable[[Moment], None] | None = None
) -> dict[str, Any]:
    """Train by SGD with momentum and a cosine schedule, and judge the last weights.

    Args:
        settings: ``norm``, ``kernel``, ``batch``, ``lr``, ``epochs``, ``seed``; ``images``, as
            ``load_images`` takes; ``judged``, ``validation`` or ``held_out``; ``limit``, how many
            images are learned from, None for all.
        folder: Of the run; nothing is written to it.
        watch: Called before each step.

    Returns:
        ``accuracy`` and ``loss`` on the images judged by, ``train_loss``, the mean over the last
        epoch, ``epoch_seconds`` and ``data``. The losses of a run that diverged are None.
    """
    splits = load_images(settings["images"])
    images, labels = splits.train.first(settings["limit"])
    torch.manual_seed(settings["seed"])
    model = build(settings["norm"], settings["kernel"])
    optimizer, schedule, steps = optimizer_of(model, settings, len(images))
    began, watched = time.perf_counter(), 0.0
    train_loss = math.nan
    for epoch in range(settings["epochs"]):
        total = 0.0
        for batch in torch.randperm(len(images)).split(settings["batch"]):
            if watch:
                paused = time.perf_counter()
                step = schedule.last_epoch
                lr = schedule.get_last_lr()[0]
                watch(
                    Moment(model, step, steps, lr, images[batch], labels[batch], splits.validation)
                )
                watched += time.perf_counter() - paused
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        train_loss = total / len(images)
        seconds = time.perf_counter() - began
        left = seconds / (epoch + 1) * (settings["epochs"] - epoch - 1)
        print(f"epoch {epoch + 1}: training loss {train_loss:.4f}, about {left:.0f} s left")
        if not math.isfinite(train_loss):
            break
    ended = time.perf_counter()
    return {
        **_judge(model, getattr(splits, settings["judged"])),
        "train_loss": _finite(train_loss),
        "epoch_seconds": (ended - began - watched) / (epoch + 1),
        "data": {
            "name": "Fashion-MNIST" if settings["images"] else "scikit-learn's handwritten digits",
            "size": images.shape[-1],
            **{part: len(getattr(splits, part).labels) for part in splits._fields},
        },
    }


def kernels_of(model: nn.Module) -> list[nn.Parameter]:
    """The kernels of the convolutions and the linear layer's matrix."""
    return [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def optimizer_of(
    model: nn.Module, settings: dict[str, Any], images: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, int]:
    """SGD, its schedule and the number of steps, for ``settings`` as ``train`` takes them."""
    kernels = kernels_of(model)
    kernel_ids = {id(p) for p in kernels}
    vectors = [p for p in model.parameters() if id(p) not in kernel_ids]
    optimizer = torch.optim.SGD(
        [{"params": kernels, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}],
        lr=settings["lr"],
        momentum=MOMENTUM,
    )
    steps = settings["epochs"] * math.ceil(images / settings["batch"])
    warmup = max(1, round(WARMUP * steps))

    def factor(step: int) -> float:
        return min((step + 1) / warmup, (1 + math.cos(math.pi * step / steps)) / 2)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor), steps


@torch.no_grad()
def _judge(model: nn.Module, part: Labelled) -> dict[str, Any]:
    model.eval()
    logits = torch.cat([model(images) for images in part.images.split(256)])
    right = (logits.argmax(1) == part.labels).float().mean().item()
    return {"accuracy": right, "loss": _finite(F.cross_entropy(logits, part.labels).item())}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
