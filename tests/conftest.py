"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# The test models are so small that a second thread costs more than it brings.
torch.set_num_threads(1)

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from the same random numbers, alone or in the whole suite."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_coco() -> Path:
    """Root of a few real COCO images: $WS_DET_TINY_COCO, or a folder beside the checkout."""
    default = REPO.parent / "shared" / "data" / "tiny_coco"
    root = Path(os.environ.get("WS_DET_TINY_COCO") or default)
    if not (root / "annotations").is_dir():
        pytest.skip(f"no COCO images at {root}: set WS_DET_TINY_COCO to a folder that has them")
    return root
