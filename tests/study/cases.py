"""Running a study's plan in this process, which need not start one for each run."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from ws_det.study.runs import Run


def run_plan(plan: Callable[[dict], list[Run]], folder: Path) -> dict[str, dict[str, Any]]:
    """What ``ws_det.study.runs.run_all`` returns."""
    results: dict[str, dict[str, Any]] = {}
    while new := [run for run in plan(results) if run.name not in results]:
        for run in new:
            module, _, name = run.function.partition(":")
            results[run.name] = getattr(import_module(module), name)(run.settings, folder)
    return results
