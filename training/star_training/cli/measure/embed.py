"""write features and embeddings of images to a file"""

import argparse

from star_catalog.files import user_path

from ...api.embed import embed
from ...models import LEAVES, WRAPPERS
from ...settings.common import EVALUATION_WORKERS


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("model", help=f"{LEAVES}, pixels, {WRAPPERS}")
    add("--data", required=True, help="images, labelled or not, as in pretrain; all their splits are read")
    add("--out", type=user_path, required=True, help="a .parquet file, or a .npy file, of the features alone")
    add("--seed", type=int, default=0, help="seed of random weights (default: %(default)s)")
    add("--workers", type=int, default=EVALUATION_WORKERS, help="processes that load images (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    same = {name: getattr(arguments, name) for name in ("data", "out", "seed", "workers")}
    print(embed(arguments.model, **same))
