"""One line about an exception: its message, or class, message and place where no message was written for it."""

import traceback
from pathlib import Path

import star_zoo

_PACKAGES = (Path(__file__).parent, Path(star_zoo.__file__).parent)


def unexpected(error: BaseException) -> str:
    """Returns class, message and place of an exception: "KeyError: 'a' (star_training/data/views.py:38)".

    The place is the deepest line of this project on the way to the exception, or the line that raised it.
    """
    said = " ".join("".join(traceback.format_exception_only(error)).split())[:500]
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return said
    for frame in reversed(frames):
        for package in _PACKAGES:
            if Path(frame.filename).is_relative_to(package):
                return f"{said} ({Path(frame.filename).relative_to(package.parent)}:{frame.lineno})"
    return f"{said} ({frames[-1].filename}:{frames[-1].lineno})"


def one_line(error: BaseException) -> str:
    """Returns an error's message on one line, cut after 300 characters."""
    return " ".join(str(error).split())[:300]
