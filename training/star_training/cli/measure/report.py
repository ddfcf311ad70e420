"""write one page with tables and figures of runs"""

import argparse
from pathlib import Path

from star_catalog.files import user_path

from ...api.report import report


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("models", nargs="+", help="runs, saved folders, results.json files")
    parser.add_argument(
        "--data", nargs="+", default=[], help="data sets whose images are shown: neighbours, reconstructions"
    )
    parser.add_argument("--out", type=user_path, default=Path("report.html"), help="the page (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    print(report(arguments.models, data=arguments.data, out=arguments.out))
