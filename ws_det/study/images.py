"""The images of the classification studies: scikit-learn's digits, or Fashion-MNIST's own files."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ws_det.errors import InputError, first_line

# Multiples of 128, so that every batch size sees every image once an epoch.
_DIGITS = {"train": 768, "validation": 256}  # the other 773 are held out
_FASHION = {"train": 10240, "validation": 2048}  # its test file is held out
_SEED = 0


class Labelled(NamedTuple):
    """Images (N, 1, H, W), of about zero mean and unit deviation, and their classes (N,)."""

    images: Tensor
    labels: Tensor

    def first(self, count: int | None) -> Labelled:
        """The first ``count``; None takes all."""
        return Labelled(self.images[:count], self.labels[:count])


class Splits(NamedTuple):
    """What is learned from, what the learning rate is chosen by, and what the results are of."""

    train: Labelled
    validation: Labelled
    held_out: Labelled


def check_images(folder: str | None = None) -> None:
    """Check that the images are there, without reading them.

    Raises:
        InputError: If scikit-learn or a file is missing.
    """
    if not find_spec("sklearn"):
        raise InputError(
            "scikit-learn is not installed, and this study needs it: pip install 'ws_det[study]'"
        )
    for part in ("train", "t10k") if folder is not None else ():
        for kind in ("images-idx3", "labels-idx1"):
            _find(Path(folder), f"{part}-{kind}-ubyte")


def load_images(folder: str | None = None) -> Splits:
    """Load the images and split them by class, always in the same way.

    Args:
        folder: With Fashion-MNIST's four IDX files, gzipped or not; None takes scikit-learn's
            1797 digits of 8 x 8 pixels, which are installed with it.

    Raises:
        InputError: If scikit-learn or a file is missing, or a file is broken.
    """
    check_images(folder)
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if folder is None:
        digits = load_digits()
        images, labels = torch.tensor(digits.images), torch.tensor(digits.target)
        sizes = _DIGITS
    else:
        images, labels = _read_pair(Path(folder), "train")
        sizes = _FASHION
        if len(images) < sum(sizes.values()):
            raise InputError(
                f"{folder} has {len(images)} training images, and {sum(sizes.values())} are "
                f"needed: give the folder of Fashion-MNIST's four IDX files"
            )

    def parted(indices: Sequence[int], size: int) -> tuple[list[int], list[int]]:
        return train_test_split(
            indices, train_size=size, stratify=labels[indices].tolist(), random_state=_SEED
        )

    train, others = parted(range(len(labels)), sizes["train"])
    validation, rest = parted(others, sizes["validation"])
    parts = [(images[part], labels[part]) for part in (train, validation, rest)]
    if folder is not None:
        parts[2] = _read_pair(Path(folder), "t10k")
    learned = parts[0][0].double()
    mean, std = learned.mean(), learned.std()
    return Splits(
        *(
            Labelled(((images - mean) / std).float().unsqueeze(1), labels.long())
            for images, labels in parts
        )
    )


def read_idx(path: Path) -> Tensor:
    """Read an IDX file of bytes: two zeros, 8 for bytes, the dimensions, big-endian sizes, data.

    Raises:
        InputError: If it is broken or of another kind.
    """
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read ({first_line(error)}): download it again"
        ) from None
    rank = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * rank
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if not rank or len(content) != start + math.prod(shape) or not math.prod(shape):
        raise InputError(f"{path} is no whole IDX file of bytes: download it again")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(shape)


def _read_pair(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    images = read_idx(_find(folder, f"{part}-images-idx3-ubyte"))
    labels = read_idx(_find(folder, f"{part}-labels-idx1-ubyte"))
    if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max() > 9:
        raise InputError(
            f"the {part} files in {folder} have images of shape {tuple(images.shape)} and labels "
            f"of shape {tuple(labels.shape)} up to {labels.max()}: give Fashion-MNIST's own files"
        )
    return images, labels


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(
        f"there is no {name} or {name}.gz in {folder}: give the folder of Fashion-MNIST's four "
        f"IDX files"
    )
