"""The training images in an order that a resumed run takes up where the old one stopped."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList, MapDataset
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from ws_det.errors import InputError, first_line

_DATA, _STEP, _SAMPLER = range(3)  # what a random number is for


def build_train_loader(
    dataset: list[dict[str, Any]],
    *,
    mapper: Any,
    total_batch_size: int,
    seed: int,
    skip: int = 0,
    sampler: Sampler | None = None,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    drop_last: bool = True,
    **kwargs: Any,
) -> DataLoader:
    """Detectron2's ``build_detection_train_loader``, made repeatable.

    The same seed and number of processes give the same batches and augmentations, whatever the
    number of workers, and ``skip`` starts in the middle of them without loading an image.

    Args:
        dataset: Detectron2's dataset dicts.
        mapper: Turns one into the model's input.
        total_batch_size: Images of one backward pass, over all processes.
        seed: The same in all processes.
        skip: Batches of this process to leave out.
        sampler: Yields indices of this process without end; None shuffles.
        aspect_ratio_grouping: Put wide and tall images into different batches.
        num_workers: Loading processes.
        collate_fn: Makes a batch of a list of inputs; None leaves the list.
        drop_last: Of no effect, for the loader has no end.
        **kwargs: Passed on to torch's DataLoader.

    Returns:
        A loader without end. Each item is a list of inputs.
    """
    wide = [aspect_ratio_grouping and d["width"] > d["height"] for d in dataset]
    sampler = sampler or TrainingSampler(len(dataset), seed=seed)
    batch_size = total_batch_size // comm.get_world_size()
    return DataLoader(
        _Seeded(MapDataset(DatasetFromList(dataset, copy=False), mapper), seed),
        batch_sampler=_Batches(sampler, batch_size, wide, skip),
        num_workers=num_workers,
        collate_fn=collate_fn or list,
        **_torchs(num_workers, kwargs),
    )


def check_workers(place: str, settings: dict[str, Any]) -> None:
    """Check what is left to torch's DataLoader.

    Args:
        place: Of the settings in the config.
        settings: ``num_workers`` and the like.

    Raises:
        InputError: If it refuses them.
    """
    given = _torchs(settings.get("num_workers"), settings)
    try:
        DataLoader([0], **given)
        if given.get("prefetch_factor") == 0:  # which torch finds when it begins to load
            raise ValueError("prefetch_factor is 0")
    except (AssertionError, TypeError, ValueError) as error:
        raise InputError(
            f"torch's DataLoader does not take the settings of {place} ({first_line(error)}): "
            f"correct them"
        ) from None


def _torchs(num_workers: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """As Detectron2 passes them on: what needs loading processes is left out without them."""
    return {k: v for k, v in settings.items() if num_workers or k != "prefetch_factor"}


def seed_step(seed: int, number: int) -> None:
    """Set the random state for what a model draws in a forward pass, for example proposals.

    Args:
        seed: Of the run.
        number: Of this process's forward pass, counted from the start of the run.
    """
    _set_seed(seed, _STEP, number)


def seed_sampler(seed: int) -> None:
    """Set the random state from which a sampler without a seed of its own draws one.

    Args:
        seed: Of the run.
    """
    _set_seed(seed, _SAMPLER, 0)


class _Batches(Sampler[list[tuple[int, int]]]):
    """Batches of (position in the stream, index of the image)."""

    def __init__(self, sampler: Sampler, batch_size: int, wide: list[bool], skip: int) -> None:
        self.sampler, self.batch_size, self.wide, self.skip = sampler, batch_size, wide, skip

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return islice(self._all(), self.skip, None)

    def _all(self) -> Iterator[list[tuple[int, int]]]:
        waiting: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        for position, index in enumerate(self.sampler):
            group = waiting[self.wide[index]]
            group.append((position, index))
            if len(group) == self.batch_size:
                yield list(group)
                group.clear()


class _Seeded(Dataset):
    """Augments the image at each position of the stream with random numbers of its own."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed
        self.rank = comm.get_rank()  # a loading process no longer knows it

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        position, index = item
        _set_seed(self.seed, _DATA, position, self.rank)
        return self.dataset[index]


def _set_seed(seed: int, kind: int, number: int, rank: int | None = None) -> None:
    rank = comm.get_rank() if rank is None else rank
    mixed = int(np.random.SeedSequence([seed, kind, rank, number]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)
