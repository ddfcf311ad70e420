"""One line about an exception that no message was written for."""

import os
import traceback
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_OWN = tuple(str(_ROOT / package) for package in ("training", "star_zoo"))


def unexpected(error: BaseException) -> str:
    """Returns class, message and place of an exception: "KeyError: 'a' (training/star_training/data/views.py:38)".

    The place is the deepest line of this project on the way to the exception, or the line that raised it.
    """
    said = " ".join("".join(traceback.format_exception_only(error)).split())[:500]
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return said
    frame = next((f for f in reversed(frames) if f.filename.startswith(_OWN)), frames[-1])
    return f"{said} ({frame.filename.removeprefix(f'{_ROOT}{os.sep}')}:{frame.lineno})"
