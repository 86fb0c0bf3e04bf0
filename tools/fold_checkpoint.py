"""Fold a trained WS detector: a checkpoint that MMDetection or Detectron2 loads without ws_det.

$ python tools/fold_checkpoint.py mask-rcnn_r50_fpn_gn-ws-all_2x_coco epoch_24.pth folded.pth
$ python tools/fold_checkpoint.py mask_rcnn_R_50_FPN_2x_gn_ws model_final.pth folded.pth

The standardized kernels are baked into plain convolutions, so inference costs what it costs without
WS. Give the --data-root and the options that it was trained with. The last lines say what the
config needs then. A folded checkpoint cannot be trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

from ws_det.checks import check_file
from ws_det.errors import run_tool
from ws_det.paths import CONFIG_HELP, add_config_flags, find_config, framework_of


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, fold, and say what the config needs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help=CONFIG_HELP)
    parser.add_argument("source", metavar="SRC", help="path or URL of its checkpoint")
    parser.add_argument("target", metavar="DST", help="the file to write")
    add_config_flags(parser)
    args = parser.parse_args(argv)
    check_file(args.target, "DST")

    framework = framework_of(find_config(args.config))
    folding = import_module(f"ws_det.{framework}.folding")
    settings = folding.fold_checkpoint(
        args.config, args.source, args.target, args.cfg_options, args.data_root
    )
    print(f"wrote {args.target}, which needs no ws_det; in the config:")
    print(*(f"    {setting}" for setting in settings), sep="\n")


if __name__ == "__main__":
    run_tool(main)
