"""Measure what WS and BCN cost, against every peer, in one interleaved run, and evaluation.

$ python tools/benchmark.py ws         # standardizing the kernels of Mask R-CNN R50-FPN
$ python tools/benchmark.py bcn        # BCN beside GroupNorm and the authors' form
$ python tools/benchmark.py step       # training steps of Mask R-CNN R50-FPN, needs MMDetection
$ python tools/benchmark.py head       # a head over five levels, standardized for each or once
$ python tools/benchmark.py inference  # WS folded and not folded beside plain convolutions
$ python tools/benchmark.py eval       # COCO evaluation with each back end
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from ws_det.errors import FrameworkError, run_tool

REPEATS = {"ws": 20, "bcn": 100, "step": 5, "head": 10, "inference": 20, "eval": 1}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, measure, print the tables, and say where the files are."""
    from ws_det.bench.run import default_device, default_size, run

    args = _parse(argv)
    device = default_device()
    common: dict[str, Any] = dict(quick=args.quick, device=device)
    if args.what == "ws":
        from ws_det.bench.ws import compare_ws

        builders = [partial(compare_ws, _peers(), **common)]
    elif args.what == "bcn":
        from ws_det.bench.bcn import SHAPES, compare_bcn

        builders = [partial(compare_bcn, shape, **common) for shape in SHAPES]
    elif args.what == "eval":
        from ws_det.bench.evaluation import LIMITS, compare_evaluation

        builders = [partial(compare_evaluation, kind, args.quick) for kind in LIMITS]
    else:
        common["size"] = args.size or default_size(device, args.quick)
        if args.what == "step":
            from ws_det.mmdet.bench import compare_step

            variant = dict(amp=args.amp, channels_last=args.channels_last, compiled=args.compile)
            builders = [partial(compare_step, **variant, **common)]
        elif args.what == "head":
            from ws_det.bench.head import compare_head

            builders = [partial(compare_head, **common)]
        else:
            from ws_det.bench.inference import compare_inference

            builders = [partial(compare_inference, **common)]
    if args.repeats is None:
        args.repeats = min(2, REPEATS[args.what]) if args.quick else REPEATS[args.what]
    for text in run(args.what, builders, args.repeats, args.threads, args.out):
        print(text, end="\n\n", flush=True)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    common.add_argument("--repeats", type=int, help=f"rounds that count (default: {REPEATS})")
    common.add_argument("--out", default="work_dirs/benchmark", help="folder for JSON and PNG")
    common.add_argument(
        "--quick", action="store_true", help="tiny shapes: shows that it runs, measures nothing"
    )
    image = argparse.ArgumentParser(add_help=False)
    image.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="of the image (default: 320 480, on a GPU 800 1333)",
    )
    names = f"{{{','.join(REPEATS)}}}"
    commands = parser.add_subparsers(dest="what", metavar=names, required=True)
    commands.add_parser("ws", parents=[common])
    commands.add_parser("bcn", parents=[common])
    step = commands.add_parser("step", parents=[common, image])
    step.add_argument("--amp", action="store_true", help="autocast to bfloat16")
    step.add_argument("--channels-last", action="store_true", help="that memory format")
    step.add_argument("--compile", action="store_true", help="compile backbone and neck")
    commands.add_parser("head", parents=[common, image])
    commands.add_parser("inference", parents=[common, image])
    commands.add_parser("eval", parents=[common])
    return parser.parse_args(argv)


def _peers() -> list:
    """The peers by their own code where it is installed, else by their formulas."""
    from ws_det.bench.peers import formula_peers, timm_peer

    peers = {peer.formula: peer for peer in formula_peers()}
    installed = [timm_peer()]
    try:
        from ws_det.mmdet.bench import mmcv_peers
    except FrameworkError:
        pass
    else:
        installed += mmcv_peers()
    return list((peers | {peer.formula: peer for peer in installed if peer}).values())


if __name__ == "__main__":
    run_tool(main)
