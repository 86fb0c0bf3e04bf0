"""Random numbers by place. Oracle: they repeat, and differ, for each kind that is drawn."""

from __future__ import annotations

import random

import pytest
import torch

from ws_det.seeding import seed_at

np = pytest.importorskip("numpy", reason="the seeds are mixed with numpy")


def drawn(*numbers: int) -> tuple[float, ...]:
    seed_at(*numbers)
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_the_same_place_draws_the_same() -> None:
    assert drawn(1, 0, 2, 3) == drawn(1, 0, 2, 3)


def test_other_places_differ_in_each_kind() -> None:
    places = [drawn(1, 0, 2, 3), drawn(2, 0, 1, 3), drawn(1, 1, 2, 3), drawn(1, 0, 3, 2)]
    for kind in zip(*places, strict=True):
        assert len(set(kind)) == len(kind)
