"""Say how far a long evaluation is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta

_SECONDS = 10.0  # between two lines


class Progress:
    """Counts steps, and says at most every ten seconds how long the rest takes.

    Args:
        what: Is going on.
        say: Told the lines; by default they go to stderr.
        clock: Seconds.
    """

    def __init__(
        self,
        what: str,
        say: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._clock = what, clock
        self._say = say or (lambda line: print(line, file=sys.stderr, flush=True))
        self._started: float | None = None
        self._said = 0.0
        self._done = 0

    def step(self, total: int) -> None:
        """Begin one of ``total`` steps; what came before the first does not count."""
        now = self._clock()
        if self._started is None:
            self._started = self._said = now
            return
        self._done += 1
        if now - self._said >= _SECONDS:
            self._said = now
            rest = (now - self._started) / self._done * (total - self._done)
            left = timedelta(seconds=round(rest))
            self._say(f"{self._what}: {self._done / total:.0%}, about {left} left")
