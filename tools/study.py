"""Reproduce the claims of the WS and BCN papers at a size that two cores train.

$ python tools/study.py detection        # Mask R-CNN on drawn shapes, needs MMDetection
$ python tools/study.py classification   # handwritten digits, needs scikit-learn
$ python tools/study.py ablation         # WS by its parts
$ python tools/study.py singularities    # channels that are nearly dead, over training
$ python tools/study.py smoothness       # Lipschitz probes of loss and gradient
$ python tools/study.py estbn            # the rate of EstBN's estimates, needs MMDetection

Stopped, the same command goes on where it was. docs/evidence.md is made of what it writes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ws_det.errors import run_tool
from ws_det.study.page import NAMES


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, run what is missing, write the summary, and say where it is."""
    from ws_det.study.study import run_study

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=NAMES)
    parser.add_argument("--work-dir", default="work_dirs/study", help="config, log, result of runs")
    parser.add_argument("--out", default="docs/evidence", help="folder for JSON and PNG")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--images", help="folder of Fashion-MNIST's IDX files, for classification")
    parser.add_argument(
        "--quick", action="store_true", help="tiny runs: shows that it runs, measures nothing"
    )
    args = parser.parse_args(argv)
    written = run_study(
        args.study, Path(args.work_dir), Path(args.out), args.jobs, args.quick, args.images
    )
    print(f"wrote {', '.join(map(str, written))}")


if __name__ == "__main__":
    run_tool(main)
