"""convert the authors' released checkpoints to star-zoo's layout, or back"""

import argparse

from star_catalog.files import user_path
from star_catalog.printing import printable

from ... import recipes


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("source", type=user_path, help="a released ckpt-N.pth, or a saved folder with --to-released")
    parser.add_argument("--recipe", help="recipe with the checkpoint's architecture and policy, e.g. stl10_resnet18")
    parser.add_argument("--install", metavar="TAG", help="also install it under a tag, e.g. star_resnet18.stl10")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--out", type=user_path, help="the folder to write")
    way.add_argument("--to-released", type=user_path, metavar="OUT.pth", help="write a released checkpoint instead")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    if arguments.to_released:
        from ...publishing.convert import convert_back

        convert_back(arguments.source, arguments.to_released)
        return
    if not arguments.recipe:
        raise ValueError("a released checkpoint does not state its architecture; pass --recipe, e.g. stl10_resnet18")
    recipe = recipes.find(arguments.recipe)  # first, because the other imports take seconds

    from star_zoo import install

    from ...publishing.convert import convert

    convert(arguments.source, recipe, arguments.out)
    if arguments.install:
        print(printable(str(install(arguments.out, arguments.install))))
