"""The entry point of the command line, star-zoo COMMAND.

It imports next to nothing before it catches interrupts, so that Ctrl-C prints no traceback while modules are imported.
"""

import sys


def program() -> None:
    """Runs the command of this process, then exits. A signal after its end doesn't change the exit code."""
    code = main()

    from ..engine.signals import exiting

    exiting(code)
    sys.exit(code)


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code. SIGINT, SIGTERM and SIGHUP end it with one line."""
    try:
        from ..engine.signals import interrupting

        with interrupting():
            from .execute import execute
            from .outputs import lasting

            with lasting():
                return execute(argv)
    except KeyboardInterrupt as interrupt:
        from ..engine.signals import Stopped
        from .outputs import lasting

        stopped = Stopped.by(interrupt)
        with lasting():
            print(f"\n{stopped}", file=sys.stderr)
        return stopped.exit_code
