"""The arguments that several functions take: models, data sets, paths."""

import os
from collections.abc import Sequence

NO_FOLDER = "--resume needs the folder of the run; pass it with --out"
Place = str | os.PathLike[str]
Model = str | os.PathLike[str]  # any name of a model, or a `Trained`, which stands for its folder
Data = Place | Sequence[Place] | None  # one data set or several; None: all in $STAR_ZOO_DATA


def listed(data: Data) -> list[str]:
    """Returns the data sets as a list, which is empty for None."""
    if data is None:
        return []
    return [os.fspath(one) for one in ([data] if isinstance(data, str | os.PathLike) else data)]
