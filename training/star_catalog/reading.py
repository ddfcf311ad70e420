"""Reads files that anyone may have written: every error is a ValueError of one line that names file and reason."""

import contextlib
import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .printing import printable

_LONGEST = 500  # characters of a library's message that are shown
_OURS = ("star_catalog", "star_training", "star_zoo")


def one_line(error: BaseException) -> str:
    """Returns an error's message on one line of printable characters; its class if it has none.

    A library's message is cut at a word; ours is complete, because it ends with the way out. PyTorch's about a pickle
    is replaced, because it advises to load it without the safety that star-zoo doesn't give up.
    """
    if type(error).__name__ == "UnpicklingError":
        return "it holds objects other than tensors, which star-zoo doesn't unpickle"
    text = str(error).strip() or type(error).__name__
    return printable(text if _is_ours(error) else shortened(" ".join(text.split())))


def shortened(text: str) -> str:
    """Returns a text of more than 500 characters cut at a word, with " ..." at its end."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST + 1].rpartition(' ')[0] or text[:_LONGEST]} ..."


def _is_ours(error: BaseException) -> bool:
    """Whether the class of an error is star-zoo's, or it is a ValueError or OSError that star-zoo raised."""
    modules = [type(error).__module__]
    if isinstance(error, (OSError, ValueError)):
        modules += [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)][-1:]
    return any(module.partition(".")[0] in _OURS for module in modules)


@contextlib.contextmanager
def refusing(what: str, way_out: str = "") -> Iterator[None]:
    """Turns every error into a ValueError that begins with `what`, e.g. "PATH is not a valid config.json".

    The reason follows, then `way_out`.

    Libraries raise nearly any class for contents that they don't expect. OSError, ImportError and MemoryError are
    passed on, because they are not about the contents.
    """
    try:
        yield
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        # the message of a LookupError is the key alone
        name = f"{type(error).__name__}: " if isinstance(error, LookupError) else ""
        raise ValueError(f"{what}: {name}{one_line(error)}{way_out and f'; {way_out}'}") from error


def json_object(path: Path, what: str, way_out: str = "") -> dict[str, Any]:
    """Returns the JSON object in a file. Raises ValueError unless it holds one, with the noun `what`, or OSError."""
    with refusing(f"{path} is not a valid {what}", way_out):
        if path.is_dir():
            raise ValueError("it is a folder")
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds {type(found).__name__}, not an object")
    return found
