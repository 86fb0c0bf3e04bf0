"""The images of an optimizer step, and what it means that a resumed run has others."""

from __future__ import annotations

from typing import NamedTuple


class Batch(NamedTuple):
    """What makes up the images of a step.

    Attributes:
        processes: GPUs, or processes on the CPU.
        images: Of each process and pass.
        accumulation: Passes.
    """

    processes: int
    images: int
    accumulation: int

    def total(self) -> int:
        """Images of a step."""
        return self.processes * self.images * self.accumulation

    def of_pass(self) -> int:
        """Images of a pass, over all processes."""
        return self.processes * self.images

    def __str__(self) -> str:
        return f"{self.processes} x {self.images} x {self.accumulation}"


def change(old: Batch, new: Batch, place: str, scaled: bool = False) -> str:
    """The sentences for a run that goes on with another number of GPUs, images or passes.

    Args:
        old: Of the checkpoint.
        new: From now on.
        place: Where in the data the run goes on.
        scaled: Whether the learning rate follows the number of images.
    """
    ratio = new.total() / old.total()
    if ratio == 1:
        step, rate = f"still {new.total()} images a step", "the same learning rate"
    else:
        step = f"{new.total()} images a step for {old.total()}"
        rate = f"the learning rate {ratio:g} times that of the checkpoint"
        if not scaled:
            rate = (
                f"the learning rate of the checkpoint, where the linear scaling rule has "
                f"{ratio:g} times that"
            )
    return (
        f"The run goes on with {new} for {old} (processes x images x accumulation): {step}, "
        f"{rate}, {place}. Only a run that goes on as it began is equal to the bit."
    )
