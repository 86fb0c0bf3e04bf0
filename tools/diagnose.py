"""Find the channels of a trained detector that are nearly dead, with any norms.

$ python tools/diagnose.py mask-rcnn_r50_fpn_gn-ws-all_2x_coco epoch_24.pth --data-root data/coco
$ python tools/diagnose.py mask_rcnn_R_50_FPN_2x_gn_ws model_final.pth --images 200

Measured is what enters each nonlinearity behind a norm, on images of the config's test set. It
prints a table and writes diagnose.json, with every channel, and diagnose.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ws_det.checks import check_writable
from ws_det.errors import InputError, run_tool
from ws_det.paths import CONFIG_HELP, add_config_flags, find_config, framework_of


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, measure, print the table, and say where the rest is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help=CONFIG_HELP)
    parser.add_argument("checkpoint", help="path or URL of the weights")
    parser.add_argument("--images", type=int, default=50, help="how many to run (default: 50)")
    parser.add_argument(
        "--out", default="work_dirs/diagnose", help="folder to write to (default: %(default)s)"
    )
    add_config_flags(parser)
    args = parser.parse_args(argv)
    if args.images < 1:
        raise InputError(f"--images {args.images}: give at least 1")
    check_writable(args.out, "--out")

    adapter = import_module(f"ws_det.{framework_of(find_config(args.config))}.diagnose")

    from ws_det.channel_plot import draw_channels
    from ws_det.channel_report import summarize, table
    from ws_det.report import write_json

    statistics = adapter.diagnose(
        args.config, args.checkpoint, args.images, args.data_root, args.cfg_options
    )
    summary, out = summarize(statistics), Path(args.out)
    write_json(out / "diagnose.json", summary, indent=None)
    draw_channels(summary, out / "diagnose.png")
    print(table(summary))
    dead = f"{summary['all']['nearly_dead']:.1%} of {summary['all']['channels']} channels"
    print(f"\nnearly dead: {dead}; every channel in {out}/diagnose.json, drawn in diagnose.png")


if __name__ == "__main__":
    run_tool(main)
