"""One run of a study, in a process of its own: ``python -m ws_det.study.process TASK FOLDER``."""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from pathlib import Path

from ws_det.report import write_json
from ws_det.study.runs import DONE


def main(task: str, place: str) -> None:
    """Call the task's function and keep what it returns."""
    content = json.loads(task)
    module, _, name = content["function"].partition(":")
    began = time.perf_counter()
    result = getattr(import_module(module), name)(content["settings"], Path(place))
    seconds = time.perf_counter() - began
    write_json(Path(place, DONE), {"task": content, "seconds": seconds, "result": result})


if __name__ == "__main__":
    main(*sys.argv[1:])
