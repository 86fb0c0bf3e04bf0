"""Train a detector of MMDetection from a config.

$ python tools/train.py mask-rcnn_r50_fpn_gn-ws-all_2x_coco --data-root data/coco
$ torchrun --nproc_per_node=8 tools/train.py CONFIG --launcher pytorch --auto-scale-lr
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from ws_det.errors import run_tool
from ws_det.paths import CONFIG_HELP


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, train, and say where the results are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help=CONFIG_HELP)
    parser.add_argument("--work-dir", help="where to write (default: work_dirs/CONFIG)")
    parser.add_argument("--data-root", help="folder of a COCO-format set; it names the classes")
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision, on a GPU")
    parser.add_argument(
        "--compile", action="store_true", help="compile backbone and neck (torch >= 2.4)"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="resume from PATH, or from the latest checkpoint in the work dir",
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate to GPUs x images x accumulation",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change settings of the config: train_cfg.max_epochs=12 key=[a,b]",
    )
    parser.add_argument(
        "--force", action="store_true", help="only warn of weights trained with other norms"
    )
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none")
    parser.add_argument("--local-rank", "--local_rank", default="0", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    os.environ.setdefault("LOCAL_RANK", args.local_rank)

    from ws_det.mmdet import options, runner
    from ws_det.report import closing_line

    result = runner.train(
        args.config,
        work_dir=args.work_dir,
        amp=args.amp,
        compiled=args.compile,
        resume=args.resume,
        auto_scale_lr=args.auto_scale_lr,
        cfg_options=options.parse_options(args.cfg_options),
        launcher=args.launcher,
        data_root=args.data_root,
        force=args.force,
    )
    if result:  # the first process
        print(f"{closing_line(result)}; checkpoints and curves.png in {result['work_dir']}")


if __name__ == "__main__":
    run_tool(main)
