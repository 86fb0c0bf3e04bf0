"""The learning rate of an effective batch. Oracle: rate x images of a step / base, by hand."""

from __future__ import annotations

import pytest

from ws_det.batch import Batch
from ws_det.scaling import learning_rate


@pytest.mark.parametrize(
    ("processes", "images", "passes", "base", "rate"),
    [
        (8, 2, 1, 16, 0.02),
        (8, 1, 1, 16, 0.01),
        (8, 1, 2, 16, 0.02),
        (1, 1, 16, 16, 0.02),
        (4, 2, 4, 16, 0.04),
        (16, 2, 1, 16, 0.04),
        (1, 1, 1, 8, 0.0025),
        (2, 3, 5, 8, 0.075),
    ],
)
def test_linear_rule(processes: int, images: int, passes: int, base: int, rate: float) -> None:
    scaled, line = learning_rate(0.02, Batch(processes, images, passes), base, scale=True)
    assert scaled == pytest.approx(rate, rel=1e-12)  # two roundings of float64
    assert line.startswith(f"learning rate {rate:g} = 0.02 (for {base}) x {processes} ")
    assert line.endswith(f"{passes} pass{'es' * (passes > 1)} / {base}")
    kept, line = learning_rate(0.02, Batch(processes, images, passes), base, scale=False)
    total = processes * images * passes
    assert kept == 0.02 and f" = {total} image" in line
    assert ("--auto-scale-lr" in line) is (total != base)
    assert total == base or line.endswith(f"makes it {rate:g}")


def test_a_base_that_nobody_names() -> None:
    line = learning_rate(0.02, Batch(2, 1, 3), None, scale=False)[1]
    words = (
        "2 processes x 1 image x 3 passes = 6 images",
        "2 GPUs x 1 image x 3 passes = 6 images",
    )
    assert line in [f"learning rate 0.02 for {product} a step" for product in words]
