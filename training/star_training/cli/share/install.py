"""install a run or a saved folder in the local store, under a tag"""

import argparse

from star_catalog.printing import printable


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("model", help="a run or a saved folder on this machine")
    parser.add_argument("tag", help="star_ARCHITECTURE.NAME, e.g. star_resnet18.mine")
    parser.add_argument("--embed", action="store_true", help="in the package, in half precision; for maintainers")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    from star_zoo import install

    from ...models.resolve import saved_folder
    from ...publishing.bundle import embed

    folder = saved_folder(arguments.model)
    where = embed(folder, arguments.tag) if arguments.embed else install(folder, arguments.tag)
    print(printable(str(where)))
    print(f'import timm, star_zoo\nmodel = timm.create_model("{arguments.tag}", pretrained=True)')
