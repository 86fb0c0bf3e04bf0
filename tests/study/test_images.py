"""The images of the classification studies. Oracles: scikit-learn's digits, files written here."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import pytest
import torch

from ws_det.errors import InputError
from ws_det.study import classification, images
from ws_det.study.images import load_images, read_idx

NAMES = {"images": "{}-images-idx3-ubyte", "labels": "{}-labels-idx1-ubyte"}


def idx(data: torch.Tensor) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in data.shape)
    return bytes([0, 0, 8, data.ndim]) + sizes + bytes(data.flatten().byte().tolist())


def fashion(folder: Path, train: int = 60, test: int = 20) -> Path:
    """Four small files as Fashion-MNIST's, those of the images gzipped."""
    for part, count in (("train", train), ("t10k", test)):
        labels = torch.arange(count) % 10
        pictures = labels.view(-1, 1, 1) * 20 + torch.arange(count).view(-1, 1, 1) % 7
        pictures = pictures.expand(count, 4, 4)
        name = NAMES["images"].format(part)
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(pictures)))
        (folder / NAMES["labels"].format(part)).write_bytes(idx(labels))
    return folder


def test_digits_are_split_by_class_and_every_one_is_used_once() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="the digits are scikit-learn's")
    digits = datasets.load_digits()
    splits = load_images()
    assert [len(part.labels) for part in splits] == [768, 256, 773]
    assert splits.train.images.shape == (768, 1, 8, 8)
    # undo the normalization by two known values: 0 and 16 are the extremes of the scans
    every = torch.cat([part.images for part in splits])
    every = (every - every.min()) / (every.max() - every.min()) * 16
    found = Counter(tuple(row) for row in every.flatten(1).round().int().tolist())
    assert found == Counter(tuple(row) for row in digits.data.astype(int).tolist())
    for part in splits:  # a tenth of each class, as in the whole, up to rounding and imbalance
        shares = part.labels.bincount() / len(part.labels)
        whole = torch.tensor(digits.target).bincount() / len(digits.target)
        assert torch.allclose(shares, whole, atol=0.01)
    again = load_images()
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(splits, again))
    assert abs(splits.train.images.mean()) < 1e-5 and abs(splits.train.images.std() - 1) < 1e-5


def test_fashion_mnist_holds_out_its_test_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn", reason="it splits the images")
    monkeypatch.setattr(images, "_FASHION", {"train": 30, "validation": 20})
    splits = load_images(str(fashion(tmp_path)))
    assert [len(part.labels) for part in splits] == [30, 20, 20]
    assert splits.held_out.images.shape == (20, 1, 4, 4)
    assert splits.held_out.labels.tolist() == [i % 10 for i in range(20)]
    assert splits.train.labels.bincount().tolist() == [3] * 10
    # the class is in the grey value, so images and labels belong together
    for part in splits:
        means = torch.stack([part.images[part.labels == c].mean() for c in range(10)])
        assert (means.diff() > 0).all()


def test_read_idx(tmp_path: Path) -> None:
    data = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
    (tmp_path / "file").write_bytes(idx(data))
    (tmp_path / "file.gz").write_bytes(gzip.compress(idx(data)))
    assert torch.equal(read_idx(tmp_path / "file"), data)
    assert torch.equal(read_idx(tmp_path / "file.gz"), data)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\x08", idx(torch.ones(3, 2, 2))[:-1], idx(torch.ones(3)) + b"x", b"\0\0\x0d\x01"],
    ids=["empty", "head", "short", "long", "floats"],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match="file is no whole IDX file of bytes: download it again"):
        read_idx(tmp_path / "file")


def test_a_broken_gzip_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(idx(torch.ones(100)))
    for content in (b"<html>", whole[:-9], whole[:15] + b"~~~~" + whole[19:]):
        (tmp_path / "file.gz").write_bytes(content)
        with pytest.raises(InputError, match=r"file\.gz cannot be read .*: download it again"):
            read_idx(tmp_path / "file.gz")


@pytest.mark.parametrize("missing", ["train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"])
def test_a_missing_file_is_named_before_anything_runs(missing: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="it splits the images")
    fashion(tmp_path)
    classification.plan({}, images=str(tmp_path))
    for path in tmp_path.glob(f"{missing}*"):
        path.unlink()
    with pytest.raises(InputError, match=f"there is no {missing} or {missing}.gz in"):
        classification.plan({}, images=str(tmp_path))


def test_without_scikit_learn_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"scikit-learn is not installed.*ws_det\[study\]"):
        classification.plan({})


def test_too_few_and_mismatched_images_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="it splits the images")
    with pytest.raises(InputError, match="has 60 training images, and 12288 are needed"):
        load_images(str(fashion(tmp_path)))
    (tmp_path / NAMES["labels"].format("train")).write_bytes(idx(torch.zeros(59)))
    with pytest.raises(InputError, match=r"images of shape \(60, 4, 4\) and labels of shape \(59"):
        load_images(str(tmp_path))
