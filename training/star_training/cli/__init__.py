"""The command line, one command a file, in three groups: `train`, `measure`, `share`.

The docstring of a command's module is its help, `declare` adds its arguments, `run` executes it. A module imports
the dependencies of its own command inside `run`, because the parser imports all commands: `--help`, wrong arguments and
`list` import neither torch nor star_zoo. `GO_ON` states how to continue after a signal.
"""

COMMANDS = {  # name -> group, in the order of a typical workflow
    "quickstart": "train",
    "pretrain": "train",
    "eval": "measure",
    "compare": "measure",
    "finetune": "train",
    "detect": "train",
    "bench": "measure",
    "report": "measure",
    "reproduce": "train",
    "convert": "share",
    "install": "share",
    "list": "share",
    "card": "share",
    "publish": "share",
}
