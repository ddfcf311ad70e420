"""The arguments that several functions take: models, data sets, paths, settings."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..settings.base import Changes

NO_FOLDER = "--resume (resume=True) needs the folder of the run; pass it (--out, out=...)"
Place = str | os.PathLike[str]
Model = str | os.PathLike[str]  # any name of a model, or a `Trained`, which stands for its folder
Data = Place | Sequence[Place] | None  # one data set or several; None: all in $STAR_ZOO_DATA


def listed(data: Data) -> list[str]:
    """Returns the data sets as a list, which is empty for None."""
    if data is None:
        return []
    return [os.fspath(one) for one in ([data] if isinstance(data, str | os.PathLike) else data)]


_PATHS = {"data": "data.source", "fraction": "data.fraction", "max_bad": "data.max_bad"}  # by the argument's name


def changes(settings: Changes, given: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns the arguments of a training that are settings, unless they are None, and then `settings`, by path."""
    plain = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in given.items()}
    arguments = [(_PATHS.get(name, name), value) for name, value in plain.items() if value is not None]
    return [*arguments, *(settings.items() if isinstance(settings, Mapping) else settings)]
