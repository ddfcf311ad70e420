"""measure what is said of speed"""

import argparse
from pathlib import Path

from ... import benchmarks


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments: those of each benchmark, and where its numbers go."""
    subparsers = parser.add_subparsers(required=True, metavar="BENCHMARK")
    for name in benchmarks.known():
        benchmark = benchmarks.find(name)
        assert benchmark.__doc__
        line = benchmark.__doc__.splitlines()[0]
        command = subparsers.add_parser(name, help=line, description=line)
        benchmark.declare(command)
        command.add_argument("--out", type=Path, help="a JSON file to write")
        command.set_defaults(benchmark=benchmark)


def run(arguments: argparse.Namespace) -> None:
    """Does what the command says."""
    from star_zoo.files import write_json

    found = arguments.benchmark.run(arguments)
    if arguments.out:
        write_json(arguments.out, found)
