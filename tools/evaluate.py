"""Evaluate saved predictions of either framework by COCO's numbers.

$ python tools/evaluate.py predictions.pkl annotations.json
$ python tools/evaluate.py coco_instances_results.json annotations.json --classwise --out n.json
$ python tools/evaluate.py gn.pkl annotations.json --compare gn_ws.pkl --html page.html --images DIR

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
        "--classes",
        nargs="+",
        metavar="NAME",
        help="of a detector of some of the categories, in the order of its labels; "
        "default: what the file of predictions says, else all",
    )
    parser.add_argument(
        "--backend",
        default="auto",
        help="auto (the fastest that is installed), hotcoco, faster-coco-eval or pycocotools",
    )
    parser.add_argument("--classwise", action="store_true", help="print the AP of each class")
    parser.add_argument("--out", metavar="X.json", help="write the numbers, those of classes too")
    parser.add_argument("--html", metavar="X.html", help="write a page that needs no other file")
    parser.add_argument("--images", metavar="DIR", help="of the images, to show some on the page")
    parser.add_argument("--compare", metavar="OTHER", help="B on the page; the first ones are A")
    parser.add_argument("--names", nargs="+", help="on the page, as of configs; default: the files")
    args = parser.parse_args(argv)
    names = args.names or [args.predictions, *([args.compare] if args.compare else [])]
    if (args.images or args.compare or args.names) and not args.html:
        parser.error("--images, --compare and --names are for the page: give --html too")
    if len(names) != 1 + bool(args.compare):
        parser.error(f"{len(names)} --names are not one for each file of predictions")
    _run(args, names)


def _run(args: argparse.Namespace, names: Sequence[str]) -> None:
    from ws_det.checks import check_file
    from ws_det.coco import check_images
    from ws_det.errors import warn
    from ws_det.evaluation import evaluate
    from ws_det.evaluation.classes import only
    from ws_det.evaluation.coco_eval import kinds_of
    from ws_det.evaluation.inputs import read_truth
    from ws_det.evaluation.report import Run, write_report
    from ws_det.evaluation.report_photos import check_sizes
    from ws_det.evaluation.result import as_report
    from ws_det.evaluation.saved import load_saved
    from ws_det.report import class_table, closing_line, table, write_json

    for path, flag in ((args.out, "--out"), (args.html, "--html")):
        if path:
            check_file(path, flag)
    files = [args.predictions, *([args.compare] if args.compare else [])]
    saved = {file: load_saved(file, args.annotations, args.classes) for file in files}
    kinds = args.kinds or kinds_of(saved[args.predictions].found)
    mended = read_truth(args.annotations, "segm" in kinds, needed=True)
    if mended.notes:
        warn(mended.describe(args.annotations))
    truth = mended.content
    if args.images:
        way_out = "give the folder that its file names start from as --images"
        check_images(args.annotations, args.images, truth["images"], way_out)
        check_sizes(truth["images"], args.images)
    known = [run.categories for run in saved.values() if run.categories is not None]
    runs: list[Run] = []
    for name, file in zip(names, files):
        # A file that needs no mending is read fastest by the back end.
        found, seen = saved[file].found, truth if mended.changed else args.annotations
        if known:
            seen, found = only(truth, found, known)
        results = evaluate(seen, found, kinds, args.backend)
        if args.html:
            runs.append(Run.of(name, results, found))
        report = as_report(results)
        print(f"{name}:\n{table(report)}" if args.compare else table(report))
        if args.classwise:
            print(f"\n{class_table(report['classes'])}")
        end = closing_line(report)
        if args.out and file == args.predictions:
            write_json(Path(args.out), report)
            end += f"; numbers in {args.out}"
        print(f"\n{end}")
    if args.html:
        shown = seen if known else truth
        write_report(args.html, shown, runs, Path(args.annotations).name, args.images)
        print(f"page in {args.html}")


if __name__ == "__main__":
    run_tool(main)
