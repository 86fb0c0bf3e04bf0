"""Evaluate a detector of MMDetection by COCO's numbers.

$ python tools/test.py CONFIG CHECKPOINT --data-root data/coco --show-dir pictures
$ torchrun --nproc_per_node=8 tools/test.py CONFIG CHECKPOINT --launcher pytorch
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from ws_det.errors import run_tool
from ws_det.paths import CONFIG_HELP


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, evaluate, and say the APs and where the results are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help=CONFIG_HELP)
    parser.add_argument("checkpoint", help="path or URL of the weights")
    parser.add_argument("--work-dir", help="where to write (default: work_dirs/CONFIG)")
    parser.add_argument("--data-root", help="folder of a COCO-format set; it names the classes")
    parser.add_argument("--out", metavar="X.pkl", help="write the predictions")
    parser.add_argument(
        "--show-dir",
        help="write a picture of each image, truth beside predictions, and the first ones together "
        "in predictions.png; those of the first process",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change settings of the config: model.test_cfg.rcnn.score_thr=0.1 key=[a,b]",
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation: the config's tta_model and tta_pipeline, else flips",
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

    result = runner.test(
        args.config,
        args.checkpoint,
        work_dir=args.work_dir,
        out=args.out,
        show_dir=args.show_dir,
        cfg_options=options.parse_options(args.cfg_options),
        launcher=args.launcher,
        data_root=args.data_root,
        force=args.force,
        tta=args.tta,
    )
    if result:  # the first process
        places = result["files"] + [f"pictures in {args.show_dir}"] * bool(args.show_dir)
        places += [f"predictions in {args.out}"] * bool(args.out)
        print("; ".join([closing_line(result), *([", ".join(places)] if places else [])]))


if __name__ == "__main__":
    run_tool(main)
