"""A run's folder: one set of settings in it, which only the same run may go on with."""

import json
from pathlib import Path

from .settings import Settings, differences


def check_folder(settings: Settings, path: Path, resume: bool, anew: str) -> None:
    """Sees that a folder is free for a new run, or holds this very one to go on with; ValueError where neither.

    `path` is the file in it that holds the settings; `anew` is what to do to start again with others.
    """
    out = path.parent
    if not path.exists():
        if resume:
            raise ValueError(f"{out} holds no run to resume; leave --resume out, or give the run's folder with --out")
        return
    if not resume:
        raise ValueError(f"{out} already holds a run; go on with --resume, or choose another folder with --out")
    try:
        before = settings.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    if found := differences(before, settings):
        raise ValueError(
            f"the settings differ from those that {out} was started with (theirs, yours): {'; '.join(found)}; "
            f"give the same, or start anew with {anew}"
        )
