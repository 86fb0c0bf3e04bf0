"""The learning rate of an effective batch: GPUs x images x accumulated passes."""

from __future__ import annotations

import torch

from ws_det.batch import Batch


def learning_rate(rate: float, batch: Batch, base: int | None, scale: bool) -> tuple[float, str]:
    """The linear rule, and the arithmetic in one line.

    Args:
        rate: The config's.
        batch: Of a step.
        base: Images of a step that ``rate`` is for; None if nobody says.
        scale: Whether to follow the rule; else the line alone says what it has.

    Returns:
        The learning rate, and for example
        ``learning rate 0.02 = 0.02 (for 16) x 8 GPUs x 1 image x 2 passes / 16``.
    """
    unit = "GPU" if torch.cuda.is_available() else "process"
    words = zip(batch, (unit, "image", "pass"), strict=True)
    product = " x ".join(_count(*count) for count in words)
    total = batch.total()
    if scale:
        assert base is not None
        scaled = rate * total / base
        return scaled, f"learning rate {scaled:g} = {rate:g} (for {base}) x {product} / {base}"
    line = f"learning rate {rate:g} for {product} = {_count(total, 'image')} a step"
    if base is not None and base != total:
        line += (
            f"; it is meant for {base}, and by the linear rule --auto-scale-lr makes it "
            f"{rate * total / base:g}"
        )
    return rate, line


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{('es' if unit.endswith('s') else 's') * (number != 1)}"
