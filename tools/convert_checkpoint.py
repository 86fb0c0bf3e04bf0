"""Bring a checkpoint from one project to another; the one that it comes from is recognized.

$ python tools/convert_checkpoint.py R-50-GN-WS.pth.tar r50.pth --to mmdet
$ python tools/convert_checkpoint.py mmdet_mask_rcnn.pth d2_mask_rcnn.pth --to detectron2
$ python tools/convert_checkpoint.py gn_detector.pth adopted.pth --adopt-ws

Whole detectors go between MMDetection, Detectron2, torchvision and the WS authors' fork (jhu),
ResNets and ResNeXts to and from timm as well, BiT's .npz to timm. Every weight without a place in
the other project is listed, and without --force nothing is written then.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from ws_det.errors import InputError, run_tool

TARGETS = ("mmdet", "detectron2", "timm", "torchvision", "jhu")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, convert, write, and say what was done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SRC", help=".pth, .pth.tar, .pkl or .npz")
    parser.add_argument("target", metavar="DST", help="the file to write, as torch.save does")
    parser.add_argument("--to", choices=TARGETS, help="the project to bring it to")
    parser.add_argument("--force", action="store_true", help="leave out what has no place there")
    parser.add_argument(
        "--adopt-ws",
        action="store_true",
        help="let a detector trained without WS start as one with adaptive WS, of equal outputs",
    )
    args = parser.parse_args(argv)
    _check(args)

    from ws_det.checkpoint import save_checkpoint, state_dict_of
    from ws_det.formats import FORMATS, convert_state, recognize
    from ws_det.formats.files import checkpoint_of

    checkpoint = _load(args.source)
    state = state_dict_of(checkpoint)
    found = recognize(state)
    if found:
        print(f"{args.source}: {len(state)} weights, recognized as {found.name} ({found.title})")
    if checkpoint is not state and len(checkpoint) > 1:
        others = [str(key) for key in checkpoint if key not in ("state_dict", "model")]
        print(f"left out of the checkpoint: {', '.join(others)}")
    if args.to:
        converted = convert_state(state, args.to, found)
        state, found = converted.state, FORMATS[args.to]
        _report(converted, args.to, args.force)
    if not state:
        raise InputError(f"{args.source} has no weights to write: give another checkpoint")
    if args.adopt_ws:
        from ws_det.adopt import adopt_ws

        if found is None or found.name not in ("mmdet", "detectron2"):
            raise InputError(
                f"--adopt-ws takes names of MMDetection or Detectron2, not those in "
                f"{args.source}: add --to mmdet or --to detectron2"
            )
        state = adopt_ws(state)
    save_checkpoint(checkpoint_of(state, found), args.target)
    print(f"{args.target}: {len(state)} weights, in {found.name}'s names")


def _check(args: argparse.Namespace) -> None:
    from ws_det.checks import check_file

    if not args.to and not args.adopt_ws:
        raise InputError("there is nothing to do: give --to PROJECT, or --adopt-ws")
    if os.path.isdir(args.target):
        raise InputError(f"{args.target} is a folder: give the path of the file to write")
    paths = args.source, args.target
    if all(os.path.exists(path) for path in paths) and os.path.samefile(*paths):
        raise InputError(f"{args.target} would replace its own source: give another path")
    if args.target.endswith((".pkl", ".npz")):
        raise InputError(f"{args.target} will be no pickle and no archive of numpy: name it .pth")
    check_file(args.target, "DST")


def _load(path: str) -> dict[str, Any]:
    from ws_det.checkpoint import load_checkpoint

    try:
        return load_checkpoint(path)
    except InputError as error:
        # a checkpoint of MMEngine's training, whose log buffers its adapter knows
        if "mmengine" not in str(error) or find_spec("mmdet") is None:
            raise
        from ws_det.mmdet.weights import load_safely

        return load_safely(path)


def _report(converted: Any, to: str, force: bool) -> None:
    if converted.needless:
        print(f"left out, not needed in {to}: {', '.join(converted.needless)}")
    for key in converted.unmatched:
        print(f"no place in {to}: {key}")
    for note in converted.notes:
        print(f"note: {note}")
    if converted.unmatched and not force:
        raise InputError(
            f"{len(converted.unmatched)} weights have no place in {to}, as "
            f"{converted.unmatched[0]}: leave them out with --force"
        )


if __name__ == "__main__":
    run_tool(main)
