"""run a benchmark of speed and memory"""

import argparse

from star_catalog.files import user_path

from ... import benchmarks
from .. import Listing, declare_verbosity


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of each benchmark, and `--out` for its numbers."""
    parser.formatter_class = Listing
    subparsers = parser.add_subparsers(required=True, metavar="BENCHMARK")
    for name in benchmarks.known():
        benchmark = benchmarks.find(name)
        assert benchmark.__doc__
        line = benchmark.__doc__.splitlines()[0]
        command = subparsers.add_parser(name, help=line, description=line)
        benchmark.declare(command)
        command.add_argument("--out", type=user_path, help="JSON file to write")
        declare_verbosity(command)
        command.set_defaults(benchmark=benchmark)


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    from star_catalog.files import write_json
    from star_catalog.writing import check_file

    if arguments.out:
        check_file(arguments.out)
    found = arguments.benchmark.run(arguments)
    if arguments.out:
        write_json(arguments.out, found)
