"""What is said where a resumed run has other images a step. Oracle: by hand."""

from __future__ import annotations

import pytest

from ws_det.batch import Batch, change


@pytest.mark.parametrize(
    ("new", "scaled", "said"),
    [
        (Batch(1, 1, 4), False, "still 4 images a step, the same learning rate, here."),
        (Batch(4, 1, 2), True, "8 images a step for 4, the learning rate 2 times that of"),
        (Batch(1, 1, 2), False, "2 images a step for 4, the learning rate of the checkpoint"),
    ],
)
def test_change(new: Batch, scaled: bool, said: str) -> None:
    sentence = change(Batch(2, 1, 2), new, "here", scaled)
    assert sentence.startswith(f"The run goes on with {new} for 2 x 1 x 2 ") and said in sentence
    assert ("linear scaling rule has 0.5 times that" in sentence) == (new.total() == 2)
