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
        self._done = 0
        self._start = self._said = clock()

    def step(self, total: int) -> None:
        """Count one of ``total`` steps."""
        self._done += 1
        now = self._clock()
        if now - self._said >= _SECONDS:
            self._said = now
            left = timedelta(seconds=round((now - self._start) / self._done * (total - self._done)))
            self._say(f"{self._what}: {self._done / total:.0%}, about {left} left")
