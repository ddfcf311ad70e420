"""the authors' released checkpoints into our layout, or back"""

import argparse
from pathlib import Path


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("source", type=Path, help="a released ckpt-N.pth, or with --to-released a saved folder")
    parser.add_argument("--recipe", help="whose architecture and policy the checkpoint has, e.g. stl10_resnet18")
    parser.add_argument("--install", metavar="TAG", help="put it into the local store too, as star_resnet18.stl10")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--out", type=Path, help="the folder to write")
    way.add_argument("--to-released", type=Path, metavar="OUT.pth", help="write a released checkpoint instead")


def run(arguments: argparse.Namespace) -> None:
    """Does what the command says."""
    from star_zoo import install

    from ... import recipes
    from ...publishing.convert import convert, convert_back

    if arguments.to_released:
        convert_back(arguments.source, arguments.to_released)
    elif not arguments.recipe:
        raise ValueError("a released checkpoint doesn't say its architecture; give --recipe, such as stl10_resnet18")
    else:
        convert(arguments.source, recipes.find(arguments.recipe), arguments.out)
        if arguments.install:
            print(install(arguments.out, arguments.install))
