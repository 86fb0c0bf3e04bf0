"""docs/training.md is right. Oracle: its own assumptions, computed; the tree for what it names."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
DOC = (REPO / "docs/training.md").read_text()
GRADIENTS = int(re.search(r"GN\+WS \| ([\d,]+)", DOC)[1].replace(",", ""))


@pytest.mark.parametrize(("gpus", "bandwidth"), [(8, 100e9), (64, 12.5e9), (256, 12.5e9)])
def test_efficiency_follows_from_the_assumptions(gpus: int, bandwidth: float) -> None:
    row = re.search(rf"^\| {gpus} \| (\S+) \| (\S+) \| (\d+)% \|$", DOC, re.MULTILINE)
    sent = 2 * (gpus - 1) / gpus * GRADIENTS / bandwidth
    hops = 2 * (gpus - 1) * math.ceil(GRADIENTS / (25 * 2**20)) * 10e-6
    assert row.groups() == (
        f"{1e3 * sent:.1f}",
        f"{1e3 * hops:.1f}",
        f"{100 * 0.4 / (0.4 + sent + hops):.0f}",
    )


def test_configs_named_exist() -> None:
    names = set(re.findall(r"`(mask[\w-]+_coco|mask_rcnn_\w+)`", DOC))
    configs = {path.stem for path in REPO.glob("configs/*/*")}
    assert len(names) == 6 and names <= configs
