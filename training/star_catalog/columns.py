"""The columns of a table in the name of a data set: `FILE.parquet:image=photo,label=species` reads these two."""

import os
import re
from collections.abc import Mapping

ROLES = ("image", "label", "split")  # of columns
_COLUMNS = re.compile(r"(?P<place>.+?):(?P<columns>\w+=.+)", re.DOTALL)


def split_columns(spec: str) -> tuple[str, dict[str, str]]:
    """Returns a specification without its columns, and the columns by role. Raises ValueError for an unknown role."""
    match = _COLUMNS.fullmatch(spec)
    if match is None or spec.startswith("stream:") or os.path.exists(os.path.expanduser(spec)):
        return spec, {}
    columns: dict[str, str] = {}
    for part in re.split(r",(?=\w+=)", match["columns"]):
        role, _, column = part.partition("=")
        if role not in ROLES or not column or role in columns:
            raise ValueError(
                f"{spec!r}: {part!r} names no column; write image=COLUMN, label=COLUMN or split=COLUMN, each once, "
                "separated by commas."
            )
        columns[role] = column
    return match["place"], columns


def with_columns(place: str, columns: Mapping[str, str]) -> str:
    """Returns a specification from its parts, the inverse of `split_columns`."""
    return f"{place}:{','.join(f'{role}={column}' for role, column in columns.items())}" if columns else place
