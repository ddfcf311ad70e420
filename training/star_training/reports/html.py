"""The page itself: HTML that opens from disk, without scripts, fonts or external images."""

import base64
from html import escape

from .drawing import Figure
from .tables import Table

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #111; background: #fff; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
img { max-width: 100%; height: auto; border: 1px solid #ccc; }
figure { margin: 0; } figcaption { margin: .5rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { border: 1px solid #999; padding: .25rem .6rem; text-align: left; white-space: nowrap; }
summary { cursor: pointer; }
"""


def render(about: str, note: str, tables: list[Table], figures: list[Figure]) -> str:
    """Returns the whole document; `note` explains the brackets in the tables."""
    title = f"star-zoo: {about}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',  # otherwise browsers request one
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>{escape(title)}</h1>",
    ]
    if tables:
        parts.append("<h2>Frozen features on each data set</h2>")
        parts.append(f"<p>{escape(note)}</p>")
        parts += [f"<h3>{escape(table.title)}</h3>{_table(table)}" for table in tables]
    parts += [_figure(figure) for figure in figures]
    return "\n".join([*parts, "</main></body></html>", ""])


def _figure(figure: Figure) -> str:
    picture = base64.b64encode(figure.png).decode()
    return (
        f"<section><h2>{escape(figure.title)}</h2><figure>"
        f'<img src="data:image/png;base64,{picture}" alt="{escape(figure.alt)}">'
        f"<figcaption>{escape(figure.alt)}</figcaption></figure>"
        f"<details><summary>The numbers</summary>{_table(figure.numbers)}</details></section>"
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    rows = (
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in table.rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
