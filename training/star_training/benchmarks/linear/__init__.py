"""The fits of the linear protocol: our solver compared with the protocol's L-BFGS on the same features.

Letters: N images, D features, C classes, R = D + 1.

Both fit every strength w, choose one on the validation images, and refit on training and validation images. Each
objective is compared with a lower bound that depends on neither solver: the objective f is 2w-strongly convex, so its
minimum is at least f(x) - |f'(x)|^2 / 4w, where x is an optimum computed in float64 to the last digit.

Seconds are CPU time of this process on one thread, because other processes distort wall-clock time. Ours are the mean
of one run before and one run after the protocol's.
"""

import argparse
from typing import Any


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the benchmark's arguments."""
    add = parser.add_argument
    add("--model", help="model whose features are used, as in star-zoo eval (default: synthetic features)")
    add("--data", help="data set for the features of --model")
    add("--images", type=int, help="maximum of training images of --data, or number of synthetic ones (default: 5000)")
    add("--features", type=int, default=512, help="width of synthetic features (default: %(default)s)")
    add("--classes", type=int, default=10, help="number of synthetic classes (default: %(default)s)")
    add("--seed", type=int, default=0, help="random seed (default: %(default)s)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the comparison."""
    if bool(arguments.model) != bool(arguments.data):
        raise ValueError("pass --model and --data together, or neither for synthetic features")
    from .compare import compare  # imported here, because the parser of every benchmark imports this module

    return compare(arguments)
