"""write the card of a run or a saved folder, or print the card of a tag"""

import argparse

from star_catalog.printing import printable


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("model", help="a run, a saved folder or a tag, whose files are on this machine")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    from ...models.names import names_path
    from ...models.resolve import saved_folder, tag_folder
    from ...publishing import card

    tag = None if names_path(arguments.model) else tag_folder(arguments.model)
    if tag:  # the folder of a tag is not the user's to change
        print(card.render(tag, arguments.model), end="")
    else:
        print(printable(str(card.write(saved_folder(arguments.model)))))
