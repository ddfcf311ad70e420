"""The version of star_zoo, without the import of the package, which takes seconds."""

import functools
import importlib.util
import re
from pathlib import Path


@functools.cache
def version() -> str:
    """Returns the version of star_zoo as its build reads it."""
    found = importlib.util.find_spec("star_zoo")
    text = Path(found.origin).read_text(encoding="utf-8") if found and found.origin else ""
    return stated[1] if (stated := re.search(r'^__version__ = "(.+)"', text, re.MULTILINE)) else ""
