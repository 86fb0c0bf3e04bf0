"""Measure the channels of a detector of Detectron2 on its test images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice

from ws_det.channel_report import counted
from ws_det.detectron2.copies import read_for_now
from ws_det.detectron2.data import check_sets
from ws_det.detectron2.folding import load_detector
from ws_det.diagnostics import ChannelStatistics, channel_statistics
from ws_det.errors import InputError, one_sentence


def diagnose(
    config: str,
    checkpoint: str,
    images: int,
    data_root: str | None = None,
    options: Sequence[str] = (),
) -> dict[str, ChannelStatistics]:
    """Run the first test images through a detector, by its own mapper, and measure.

    Args:
        config: Path of a config, or the name of a supplied one.
        checkpoint: Path or URL of its weights.
        images: How many; fewer if the sets have fewer.
        data_root: Folder of a COCO-format set.
        options: ``KEY=VALUE``.

    Returns:
        As ``channel_statistics``.

    Raises:
        InputError: As ``load_detector``, ``check_sets`` and ``channel_statistics``, or if the
            config has no test set.
    """
    recipe, model = load_detector(config, checkpoint, options, data_root)
    if not recipe.test_sets:
        raise InputError(f"the config {config} has no test set: give --data-root FOLDER")
    found = check_sets(recipe.test_sets, recipe.num_classes())
    model.to(recipe.device)
    with read_for_now(found):
        loaders = [recipe.build_test_loader(name) for name in recipe.test_sets]
    # One by one, whatever the config's batch, so that no image is padded for another.
    singles = ([image] for batch in chain.from_iterable(loaders) for image in batch)
    total = min(images, sum(len(loader.dataset) for loader in loaders))
    with one_sentence():
        return channel_statistics(model, counted(islice(singles, total), total))
