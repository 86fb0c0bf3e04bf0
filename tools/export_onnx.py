"""Export a trained WS detector to ONNX, folded: backbone and neck, or the whole detector.

$ python tools/export_onnx.py mask-rcnn_r50_fpn_gn-ws-all_2x_coco epoch_24.pth features.onnx
$ python tools/export_onnx.py mask_rcnn_R_50_FPN_2x_gn_ws model_final.pth detector.onnx --whole

BCN is folded too. Batch, height and width may change; a whole detector takes one image. The file
is compared with torch by onnxruntime, also with another size, before it takes its name. Give the
--data-root and the options that the checkpoint was trained with.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

from ws_det.checks import check_file
from ws_det.errors import run_tool
from ws_det.paths import CONFIG_HELP, add_config_flags, find_config, framework_of


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, export, and say how exact the file is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help=CONFIG_HELP)
    parser.add_argument("checkpoint", help="path or URL of its checkpoint")
    parser.add_argument("target", metavar="DST.onnx", help="the file to write")
    parser.add_argument(
        "--shape",
        nargs=2,
        type=int,
        default=(320, 448),
        metavar=("H", "W"),
        help="of the image that is traced (default: 320 448)",
    )
    parser.add_argument(
        "--whole", action="store_true", help="the whole detector, with Detectron2 alone"
    )
    add_config_flags(parser)
    args = parser.parse_args(argv)
    check_file(args.target, "DST")

    framework = framework_of(find_config(args.config))
    exporter = import_module(f"ws_det.{framework}.export")
    error = exporter.export(
        args.config,
        args.checkpoint,
        args.target,
        args.shape,
        args.whole,
        args.cfg_options,
        args.data_root,
    )
    print(f"wrote {args.target}: onnxruntime gives what torch gives, to {error:.0e} of the largest")


if __name__ == "__main__":
    run_tool(main)
