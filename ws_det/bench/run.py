"""Run a benchmark: build, time, show, and leave JSON and a chart behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from ws_det.bench.machine import describe_machine
from ws_det.bench.rounds import Comparison, measure
from ws_det.bench.tables import as_json, markdown
from ws_det.checks import check_writable
from ws_det.errors import InputError
from ws_det.report import write_json


def default_device() -> str:
    """A GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_size(device: str, quick: bool) -> tuple[int, int]:
    """COCO's usual image on a GPU, one that a CPU trains in seconds on a CPU."""
    if quick:
        return 64, 96
    return (800, 1333) if device == "cuda" else (320, 480)


def run(
    what: str,
    builders: Sequence[Callable[[], Comparison]],
    repeats: int,
    threads: int | None = None,
    out: str = "work_dirs/benchmark",
) -> Iterator[str]:
    """Time comparisons one after the other, so that one alone is in memory.

    Args:
        what: Names the files, ``benchmark_<what>.json`` and ``.png``.
        builders: Each builds a comparison.
        repeats: Rounds of each.
        threads: Of torch; None keeps its own choice.
        out: Folder for the files.

    Yields:
        The machine, the tables of each comparison in Markdown, and where the files are.

    Raises:
        InputError: If a number is not positive or the folder cannot be written.
    """
    for name, number in (("--repeats", repeats), ("--threads", threads)):
        if number is not None and number < 1:
            raise InputError(f"{name} {number} is too few: give 1 or more")
    check_writable(out, "--out")
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    machine = describe_machine(default_device())
    yield "{device}, {threads} threads, torch {torch}, medians of {n} interleaved rounds".format(
        **machine, n=repeats
    )
    outcomes = []
    for build in builders:
        comparison = build()
        timings = measure(comparison, repeats)
        yield markdown(comparison, timings)
        comparison.arms.clear()  # the tensors in them
        outcomes.append((comparison, timings))
    path = Path(out, f"benchmark_{what}.json")
    content = {"what": what, "machine": machine, "rounds": repeats}
    write_json(path, content | {"comparisons": [as_json(*outcome) for outcome in outcomes]})
    written = str(path)
    if find_spec("matplotlib"):
        from ws_det.bench.chart import draw_bars

        draw_bars(outcomes, path.with_suffix(".png"))
        written += f" and {path.with_suffix('.png').name}"
    yield f"wrote {written}"
