"""Train or evaluate a detector of Detectron2, with a LazyConfig or a yaml config.

$ python tools/train_detectron2.py --config-file mask_rcnn_R_50_FPN_2x_gn_ws.py --num-gpus 8
$ python tools/train_detectron2.py --config-file CONFIG --num-gpus 2 --resume
$ python tools/train_detectron2.py --config-file CONFIG --eval-only train.init_checkpoint=X.pth
$ python tools/train_detectron2.py --config-file CONFIG train.accumulation_steps=16

Options of a LazyConfig are key.path=value, those of a yaml config KEY.PATH VALUE or KEY.PATH=VALUE.
Without a GPU, --num-gpus counts processes on the CPU.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from ws_det.errors import run_tool
from ws_det.paths import CONFIG_HELP


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags of Detectron2's tools, and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help=CONFIG_HELP)
    parser.add_argument("--resume", action="store_true", help="take up the run in output_dir")
    parser.add_argument("--eval-only", action="store_true", help="evaluate the config's weights")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="which machine this is")
    # Deterministic for a user, so that orphans of an earlier run show.
    port = 2**15 + 2**14 + hash(os.getuid()) % 2**14
    parser.add_argument("--dist-url", default=f"tcp://127.0.0.1:{port}", help="or auto")
    parser.add_argument("--data-root", help="folder of a COCO-format set; it names the classes")
    parser.add_argument(
        "--show-dir",
        help="write predictions.png, the first images of a test set as truth and as prediction",
    )
    parser.add_argument(
        "--tta", action="store_true", help="also test in several sizes and flipped, merged"
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile backbone and FPN (torch >= 2.4)"
    )
    parser.add_argument(
        "--force", action="store_true", help="only warn of weights trained with other norms"
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate to GPUs x images x accumulation",
    )
    parser.add_argument("options", nargs="*", metavar="KEY=VALUE", help="change the config")
    args = parser.parse_intermixed_args(argv)

    from ws_det.detectron2.train import Job, run

    job = Job(
        config=args.config_file,
        options=tuple(args.options),
        data_root=args.data_root,
        resume=args.resume,
        eval_only=args.eval_only,
        show_dir=args.show_dir,
        compiled=args.compile,
        force=args.force,
        auto_scale_lr=args.auto_scale_lr,
        tta=args.tta,
    )
    run(job, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)


if __name__ == "__main__":
    run_tool(main)
