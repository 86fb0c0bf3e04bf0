"""Run one study, from its plan to its part of the page."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from ws_det.bench.machine import describe_machine
from ws_det.checks import check_file, check_writable
from ws_det.errors import InputError
from ws_det.files import write_text
from ws_det.report import write_json
from ws_det.study.page import module_of, page
from ws_det.study.runs import DONE, run_all


def run_study(
    name: str, work_dir: Path, out: Path, jobs: int, quick: bool = False, images: str | None = None
) -> list[Path]:
    """Run what is missing, write summary and plot, and the page beside ``out``.

    Args:
        name: One of ``page.NAMES``.
        work_dir: Keeps config, log and result of every run.
        out: Folder for ``<name>.json`` and ``<name>.png``; ``evidence.md`` is written beside it.
        jobs: How many runs at a time.
        quick: Tiny runs, kept apart, and no page.
        images: Folder of Fashion-MNIST's IDX files, for studies of classification.

    Returns:
        The files that were written.

    Raises:
        InputError: For bad input, or if a run fails.
    """
    if jobs < 1:
        raise InputError(f"--jobs {jobs} is too few: give 1 or more")
    for flag, folder in (("--work-dir", work_dir), ("--out", out)):
        check_writable(str(folder), flag)
    check_file(str(out.with_suffix(".md")), "--out")
    study = module_of(name)
    plan = partial(study.plan, quick=quick)
    if images:
        if not hasattr(study, "TAKES_IMAGES"):
            raise InputError(
                f"--images {images}: the study {name} has its own images, leave it out"
            )
        plan = partial(plan, images=str(Path(images).absolute()))
    folder = work_dir / (f"{name}-quick" if quick else name)
    results = run_all(plan, folder, jobs)
    seconds = sum(json.loads((folder / run / DONE).read_text())["seconds"] for run in results)
    summary = study.summarize(results)
    counts = {"runs": len(results), "seconds": round(seconds)}
    content = {"machine": describe_machine("cpu") | {"threads": 1}, **counts, "summary": summary}
    written = [out / f"{name}.json", out / f"{name}.png"]
    write_json(written[0], content)
    study.draw(summary, written[1])
    if not quick:
        written.append(out.with_suffix(".md"))
        write_text(written[-1], page(out))
    return written
