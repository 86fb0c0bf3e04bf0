"""The training images in an order that a resumed run takes up where the old one stopped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_rank
from torch.utils.data import DataLoader, Dataset, Sampler

from ws_det.seeding import DATA, seed_at


def resumable(loader: DataLoader, seed: int, position: int, endless: bool) -> DataLoader:
    """A loader of the same batches that starts in the middle of them without loading an image.

    What is drawn at random for an image depends on its place in the run, so it is the same whatever
    the number of loading processes.

    Args:
        loader: As MMEngine builds it.
        seed: Of the run.
        position: Batches of this process that the run has had.
        endless: Whether the loop counts iterations, and asks for more where an epoch ends.

    Returns:
        The loader.
    """
    batches = _Batches(loader.batch_sampler, position, endless)
    return DataLoader(
        _Seeded(loader.dataset, seed, get_rank()),
        batch_sampler=batches,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )


class _Batches(Sampler[list[tuple[int, int, int]]]):
    """Batches of (number of the batch, place in it, index of the image).

    A finite sampler begins anew each epoch, so only the batches of the current one are drawn again
    to leave them out; those of an endless one all.
    """

    def __init__(self, batches: Sampler, position: int, endless: bool) -> None:
        self.batches, self.position = batches, position
        self.sampler = getattr(batches, "sampler", None)  # MMEngine's hooks look for it here
        self.batch_size = batches.batch_size
        # An endless sampler has a length too, so that the loop must tell them apart.
        self.epoch = 0 if endless else position // len(batches)
        self.number = self.epoch * len(batches)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        started = False
        while not started:  # an epoch that is past has nothing to yield
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(self.epoch)
            for batch in self.batches:
                if self.number >= self.position:
                    started = True
                    yield [(self.number, place, index) for place, index in enumerate(batch)]
                self.number += 1
            self.epoch += 1

    def __len__(self) -> int:
        return len(self.batches)


class _Seeded(Dataset):
    """Augments the image at each place of the run with random numbers of its own.

    For all else it is the data set: MMDetection's hooks read it and change its pipeline.
    """

    def __init__(self, dataset: Dataset, seed: int, rank: int) -> None:
        self.__dict__.update(_dataset=dataset, _seed=seed, _rank=rank)

    def __getitem__(self, item: tuple[int, int, int] | int) -> Any:
        if not isinstance(item, tuple):
            return self._dataset[item]
        number, place, index = item
        seed_at(self._seed, DATA, self._rank, number, place)
        return self._dataset[index]

    def __len__(self) -> int:
        return len(self._dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # pickle and torch ask for methods of this class
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._dataset, name, value)
