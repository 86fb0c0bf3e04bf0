"""Evaluate saved predictions of either framework by COCO's numbers.

$ python tools/evaluate.py predictions.pkl annotations.json
$ python tools/evaluate.py coco_instances_results.json annotations.json --classwise --out n.json

Predictions are COCO results (.json), what MMDetection's test tools write with --out (.pkl), or
Detectron2's instances_predictions.pth.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ws_det.errors import run_tool


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, evaluate, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("predictions", help="what a framework saved")
    parser.add_argument("annotations", help="the annotation file, in COCO's format")
    parser.add_argument(
        "--kinds", nargs="+", choices=("bbox", "segm"), help="default: all that there are"
    )
    parser.add_argument(
        "--backend",
        default="auto",
        help="auto (the fastest that is installed), hotcoco, faster-coco-eval or pycocotools",
    )
    parser.add_argument("--classwise", action="store_true", help="print the AP of each class")
    parser.add_argument("--out", metavar="X.json", help="write the numbers, those of classes too")
    args = parser.parse_args(argv)

    from ws_det.checks import check_writable
    from ws_det.evaluation import evaluate
    from ws_det.evaluation.result import as_report
    from ws_det.evaluation.saved import read_saved
    from ws_det.report import class_table, closing_line, table, write_json

    if args.out:
        check_writable(str(Path(args.out).parent), "--out")
    found = read_saved(args.predictions, args.annotations)
    results = evaluate(args.annotations, found, args.kinds, args.backend)
    report = as_report(results)
    print(table(report))
    if args.classwise:
        print(f"\n{class_table(report['classes'])}")
    end = closing_line(report)
    if args.out:
        write_json(Path(args.out), report)
        end += f"; numbers in {args.out}"
    print(f"\n{end}")


if __name__ == "__main__":
    run_tool(main)
