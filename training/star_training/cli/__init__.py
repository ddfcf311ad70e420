"""The commands of star-zoo, one a file, in the order of a model's life.

The first line of a module is its help, `declare` says what it takes, `run` does it. What only one command needs is
imported inside its `run`, for every command imports all of them. `GO_ON` says how to go on after a signal.
"""

NAMES = (
    "quickstart",
    "pretrain",
    "eval",
    "compare",
    "finetune",
    "detect",
    "bench",
    "report",
    "reproduce",
    "convert",
    "install",
    "list",
    "card",
    "publish",
)
