"""Markdown templates that escape their values, because names of data, models and classes may contain anything.

`{{ value }}` prints a value as text. Filters print it as something else: `code` as a code span, `sh` as a word of a
shell command, `py` as a string in Python, `url` as a file name in a link.
"""

import functools
import re
import shlex
from typing import Any
from urllib.parse import quote

# characters that start or end an element of Markdown, a table, a formula or HTML where they stand; a backslash before
# a letter, a digit or a space is one
_SPECIAL = re.compile(
    r"\\(?![A-Za-z0-9 ])|[`*~$|#]|(?<![^\W_])_|_(?![^\W_])|<(?=[A-Za-z/!?])|&(?=#?\w+;)|!(?=\[)|(?<=\])[(\[:]|(?<=\[)\^"
)


def plain(text: str) -> str:
    """Returns text on one line of printable characters, with ? in place of others."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def escape(text: str) -> str:
    """Returns Markdown that displays a text on one line, also in a cell of a table."""
    return _SPECIAL.sub(r"\\\g<0>", plain(text))


def code_span(text: str) -> str:
    """Returns a code span, outside a table, that displays a text."""
    text = plain(text) or " "
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if "`" in (text[0], text[-1]) else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def shell_word(text: str) -> str:
    """Returns a word of a shell command; characters that aren't printable become ?."""
    return shlex.quote("".join(c if c.isprintable() else "?" for c in text))


def operand(text: str) -> str:
    """Returns a value of a command that isn't taken for an option, whatever its first character."""
    return f"./{text}" if text.startswith("-") else text


def python_string(text: str) -> str:
    """Returns a text as a string in Python."""
    found = repr(text)
    return found if {"'", '"'} & set(text) else f'"{found[1:-1]}"'


def render(template: str, **values: Any) -> str:
    """Returns a template of the folder `templates` with its values."""
    return environment().get_template(template).render(values)


@functools.cache  # it keeps the compiled templates
def environment() -> Any:
    """Returns the environment of jinja2 that escapes values."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    jinja = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,  # leaves the Markup of `finalize` and of the filters as it is
        finalize=lambda value: value if isinstance(value, Markup) else Markup(escape(str(value))),
        keep_trailing_newline=True,
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    jinja.filters |= {
        "operand": operand,
        "code": lambda text: Markup(code_span(str(text))),
        "sh": lambda text: Markup(shell_word(str(text))),
        "py": lambda text: Markup(python_string(str(text))),
        "url": lambda text: Markup(quote(str(text))),
    }
    return jinja
