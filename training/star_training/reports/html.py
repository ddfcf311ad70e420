"""The page itself: HTML that opens from disk, without scripts, fonts or external images."""

import base64
import datetime
from collections.abc import Sequence

from star_catalog.version import version

from .drawing import Figure
from .tables import Table


def render(about: str, note: str, tables: list[Table], figures: list[Figure], left_out: Sequence[str] = ()) -> str:
    """Returns the whole document, with today's date and the version of star-zoo.

    `note` explains the brackets in the tables; `left_out` are lines about what the page doesn't show.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    jinja = Environment(
        loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    jinja.filters["base64"] = lambda data: base64.b64encode(data).decode()
    made = f"{datetime.date.today():%d %B %Y}, star-zoo {version()}"
    page = jinja.get_template("page.html.jinja")
    return page.render(
        title=f"star-zoo: {about}", made=made, note=note, tables=tables, figures=figures, left_out=left_out
    )
