"""The page itself: HTML that opens from disk, without scripts, fonts or external images."""

import base64

from .drawing import Figure
from .tables import Table


def render(about: str, note: str, tables: list[Table], figures: list[Figure]) -> str:
    """Returns the whole document; `note` explains the brackets in the tables."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    jinja = Environment(
        loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    jinja.filters["base64"] = lambda data: base64.b64encode(data).decode()
    page = jinja.get_template("page.html.jinja")
    return page.render(title=f"star-zoo: {about}", note=note, tables=tables, figures=figures)
