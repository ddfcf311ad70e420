"""The command line, one command a file, in three groups: `train`, `measure`, `share`.

The docstring of a command's module is its help, `declare` adds its arguments, `run` executes it. A module imports
the dependencies of its own command inside `run`, because the parser imports all commands: `--help`, wrong arguments and
`list` import neither torch nor star_zoo. A command that a signal stops, after saving its progress, has a function
`go_on(arguments, words, folder)`: from the words of its command line and the folder of the stopped run, if there is
one, it returns the words of the command that continues.
"""

import argparse

from ..messages import QUIET, VERBOSE

COMMANDS = {  # name -> group, in the order of a typical workflow
    "quickstart": "train",
    "pretrain": "train",
    "eval": "measure",
    "compare": "measure",
    "embed": "measure",
    "finetune": "train",
    "detect": "train",
    "bench": "measure",
    "curves": "measure",
    "report": "measure",
    "reproduce": "train",
    "convert": "share",
    "install": "share",
    "export": "share",
    "list": "share",
    "card": "share",
    "publish": "share",
}


def declare_verbosity(command: argparse.ArgumentParser) -> None:
    """Declares -q and -v, which set `verbosity`. Without them it is not set, because a parser may be inside another."""
    add = command.add_mutually_exclusive_group().add_argument
    for flag, level, text in (("-q", QUIET, "print results and errors only"), ("-v", VERBOSE, "print details, too")):
        add(flag, dest="verbosity", action="store_const", const=level, default=argparse.SUPPRESS, help=text)


class Listing(argparse.HelpFormatter):
    """Help in which the text of every command is on the line of its name.

    argparse doesn't count the indentation of the commands, and breaks the line after the longest names.
    """

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=24)
        self._action_max_length = 4 + max(map(len, COMMANDS))
