"""list every tag with the location and size of its weights, licence, objective, data and results"""

import argparse


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares no arguments."""


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    from ...publishing.listing import rows

    table = [("tag", "weights", "MB", "licence", "objective", "data", "measured"), *rows()]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
