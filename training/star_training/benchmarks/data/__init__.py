"""The data path from encoded JPEG to uint8 views and their params, compared with plain PIL on one thread.

Letters: V views of an image, S view size, P augmentation parameters.

Both make the views of the `folder` recipe under STAR: the base view and two random resized crops. Plain PIL works as
many data loaders do: it opens an image, converts it to RGB, and for each view crops, resizes (bilinear) and converts to
a tensor. The two alternate on the same images. Neither permutes axes: pixels stay channels last in memory. Seconds are
CPU time of this process, because other processes distort wall-clock time.
"""

import argparse
from typing import Any


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the benchmark's arguments."""
    add = parser.add_argument
    add("--images", type=int, default=16, help="images of each size (default: %(default)s)")
    add("--rounds", type=int, default=9, help="passes of each over the images, alternating (default: %(default)s)")
    add("--view", type=int, default=224, help="side of a view in pixels (default: %(default)s)")
    add("--seed", type=int, default=0, help="random seed (default: %(default)s)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the comparison, by image size."""
    if min(arguments.images, arguments.rounds, arguments.view) < 1:
        raise ValueError("--images, --rounds and --view must be at least 1")
    from .compare import compare  # imported here, because the parser of every benchmark imports this module

    return compare(arguments)
