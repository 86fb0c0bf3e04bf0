"""Write a synthetic COCO-format set of drawn shapes, to try detectors on without a download.

$ python tools/make_shapes_coco.py data/shapes
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ws_det.errors import run_tool


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, write the set, and say where it is."""
    from ws_det.shapes import ShapesSpec, make_shapes

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", help="folder to make; a set made with the same flags is kept")
    parser.add_argument("--train-images", type=int, default=ShapesSpec.train_images)
    parser.add_argument("--val-images", type=int, default=ShapesSpec.val_images)
    parser.add_argument("--image-size", type=int, default=ShapesSpec.image_size)
    parser.add_argument("--seed", type=int, default=ShapesSpec.seed)
    args = parser.parse_args(argv)
    spec = ShapesSpec(args.train_images, args.val_images, args.image_size, args.seed)
    written = make_shapes(args.out, spec)
    counts = f"{spec.train_images} images to train on and {spec.val_images} held out"
    print(f"{args.out}: {'wrote' if written else 'kept the same set,'} {counts}")


if __name__ == "__main__":
    run_tool(main)
