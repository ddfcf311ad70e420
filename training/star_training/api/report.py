"""`report`: one page with tables and figures of runs."""

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from star_catalog.files import user_path
from star_catalog.printing import printable

from ..messages import noted
from .arguments import Data, Model, Place, listed


@dataclass(frozen=True)
class Report:
    """A page of tables and figures, displayed as it is in a notebook."""

    path: Path
    titles: list[str]  # of its tables and figures

    def __str__(self) -> str:
        return "\n".join(map(printable, [*self.titles, str(self.path)]))

    def _repr_html_(self) -> str:
        """Returns the page in a frame, so that its style doesn't change the notebook's."""
        page = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" width="100%" height="600"></iframe>'


@noted()
def report(models: Model | Sequence[Model], *, data: Data = None, out: Place = "report.html") -> Report:
    """Writes an HTML page about runs, saved folders and results.json files, and returns it.

    Args:
        models: one or several; the figures of a single run are also saved beside its model and added to its card.
        data: data sets whose images are shown: nearest neighbours, reconstructions.
        out: the file to write.

    Raises ValueError if there is nothing to show.
    """
    from ..reports import page

    names = [models] if isinstance(models, str | os.PathLike) else list(models)
    path = user_path(out)
    return Report(path, page.report([os.fspath(name) for name in names], path, listed(data)))
