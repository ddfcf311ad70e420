"""The local store: weights that a user installed under a tag. One folder a tag, as `save_pretrained` writes it."""

import os
from pathlib import Path


def home() -> Path:
    """Where star-zoo keeps things on this machine: `STAR_ZOO_HOME`, or `~/.cache/star_zoo`."""
    return Path(os.path.expanduser(os.environ.get("STAR_ZOO_HOME") or "~/.cache/star_zoo"))
