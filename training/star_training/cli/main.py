"""The entry point of the command line, star-zoo COMMAND."""

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Ctrl-C prints one line, also while modules are imported."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed, as by 2>&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    try:
        from ..engine.signals import stopping_imports

        with stopping_imports():
            from .execute import execute

            return execute(argv)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
