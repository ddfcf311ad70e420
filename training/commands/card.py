"""write the card of a run or a saved folder"""

import argparse


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("model", help="a run or a saved folder")


def run(arguments: argparse.Namespace) -> None:
    """Does what the command says."""
    from .. import card
    from ..model_names import saved_folder

    print(card.write(saved_folder(arguments.model)))
