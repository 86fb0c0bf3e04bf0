"""The order of the training images. Oracle: Detectron2's own sampler and aspect ratio grouping."""

from __future__ import annotations

import random
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.samplers import TrainingSampler

from ws_det.detectron2.stream import build_train_loader, seed_step

DATASET = [{"image_id": i, "width": 3 if i % 3 else 1, "height": 2} for i in range(7)]


def draw(dataset_dict):
    """A mapper with each kind of random number that augmentations use."""
    numbers = random.random(), np.random.rand(), torch.rand(1).item()
    return {"image_id": dataset_dict["image_id"], "numbers": numbers}


def batches(count, **options):
    options = {"mapper": draw, "total_batch_size": 2, "seed": 5} | options
    return list(islice(build_train_loader(DATASET, **options), count))


@pytest.mark.parametrize("grouping", [True, False])
def test_batches_are_detectron2s(grouping):
    stream = (DATASET[i] for i in TrainingSampler(len(DATASET), seed=5))
    own = AspectRatioGroupedDataset(stream, 2)
    expected = (
        islice(own, 9) if grouping else (list(islice(stream, 2)) for _ in range(9))
    )  # Detectron2 groups what it has loaded
    found = batches(9, aspect_ratio_grouping=grouping)
    ids = [[item["image_id"] for item in batch] for batch in found]
    assert ids == [[item["image_id"] for item in batch] for batch in expected]


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_continues_the_stream(workers):
    """Oracle: the same stream from its start, loaded by this process."""
    assert batches(4, skip=5, num_workers=workers) == batches(9)[5:]


def test_seeds_differ():
    assert batches(3) == batches(3) != batches(3, seed=6)
    numbers = [item["numbers"] for batch in batches(9) for item in batch]
    assert len(set(numbers)) == len(numbers)  # the second epoch draws anew


def test_steps_differ_and_repeat():
    def drawn(seed, number):
        seed_step(seed, number)
        return torch.rand(1).item(), np.random.rand(), random.random()

    assert drawn(1, 2) == drawn(1, 2)
    assert len({drawn(1, 2), drawn(1, 3), drawn(2, 2)}) == 3
