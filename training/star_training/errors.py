"""Exceptions that end a command, and one-line messages for others. It imports nothing heavy."""

import traceback
from pathlib import Path

from star_catalog.names import folders

_PACKAGES = [Path(folder) for package in ("star_catalog", "star_training", "star_zoo") for folder in folders(package)]


class Diverged(RuntimeError):
    """The loss or a weight became infinite or NaN."""


class LoadingError(RuntimeError):
    """An unexpected exception while loading images; the message is one line."""


def unexpected(error: BaseException) -> str:
    """Returns class, message and location of an exception: "KeyError: 'a' (star_training/data/views.py:38)".

    The location is the innermost line of this project in the traceback, or else the line that raised the exception.
    """
    message = " ".join("".join(traceback.format_exception_only(error)).split())[:500]
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return message
    for frame in reversed(frames):
        for package in _PACKAGES:
            if Path(frame.filename).is_relative_to(package):
                return f"{message} ({Path(frame.filename).relative_to(package.parent)}:{frame.lineno})"
    return f"{message} ({frames[-1].filename}:{frames[-1].lineno})"


def one_line(error: BaseException) -> str:
    """Returns an error's message on one line, cut after 300 characters."""
    return " ".join(str(error).split())[:300]
