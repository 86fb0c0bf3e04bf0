"""Measure the channels of a detector of MMDetection on its test images."""

from __future__ import annotations

from collections.abc import Sequence
from tempfile import TemporaryDirectory

import torch
from mmdet.registry import DATASETS
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from torch.utils.data import DataLoader, Subset

from ws_det.channel_report import counted
from ws_det.diagnostics import ChannelStatistics, channel_statistics
from ws_det.errors import one_sentence
from ws_det.mmdet import copies
from ws_det.mmdet.config import complete
from ws_det.mmdet.data import check_data
from ws_det.mmdet.folding import load_detector


def diagnose(
    config: str,
    checkpoint: str,
    images: int,
    data_root: str | None = None,
    options: Sequence[str] = (),
) -> dict[str, ChannelStatistics]:
    """Run the first test images through a detector, by its own pipeline, and measure.

    Args:
        config: Path of a config, or the name of a supplied one.
        checkpoint: Path or URL of its weights.
        images: How many; fewer if the set has fewer.
        data_root: Folder of a COCO-format set.
        options: ``key.path=value``.

    Returns:
        As ``channel_statistics``.

    Raises:
        InputError: As ``load_detector``, ``check_data`` and ``channel_statistics``.
    """
    cfg, model, _ = load_detector(config, checkpoint, options, data_root)
    complete(cfg, "none")
    readings = check_data(cfg, ("test",))
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmdet")), one_sentence():
        with TemporaryDirectory() as folder:
            copies.apply(copies.write_copies(readings, folder), cfg.get)
            dataset = DATASETS.build(cfg.test_dataloader.dataset)
        chosen = Subset(dataset, range(min(images, len(dataset))))
        # One by one, whatever the config's batch, so that no image is padded for another.
        loader = DataLoader(
            chosen,
            num_workers=cfg.test_dataloader.get("num_workers", 0),
            collate_fn=pseudo_collate,
        )
        batches = counted(loader, len(chosen))
        return channel_statistics(model, batches, lambda model, batch: model.test_step(batch))
