"""show every tag: where its weights are, size, licence, objective, data and measured numbers"""

import argparse


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments: none."""


def run(arguments: argparse.Namespace) -> None:
    """Does what the command says."""
    from ...publishing.listing import rows

    table = [("tag", "weights", "MB", "licence", "objective", "data", "measured"), *rows()]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
