"""Random numbers that depend on where a run is, not on what it drew before.

A resumed run then draws what one that never stopped draws, without a saved random state, and with
any number of loading processes.
"""

from __future__ import annotations

import random

import torch

DATA, STEP = range(2)  # what a random number is for: augmentations, or the model


def seed_at(seed: int, *place: int) -> None:
    """Set the random states of Python, numpy and torch.

    Args:
        seed: Of the run.
        place: Numbers that tell this place of the run from all others.
    """
    import numpy as np

    mixed = int(np.random.SeedSequence([seed, *place]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)
