"""The entry point of the command line, star-zoo COMMAND."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Ctrl-C prints one line, at any time, also while Python imports."""
    try:
        from .execute import execute

        return execute(argv)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
