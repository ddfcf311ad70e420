"""Columns of tables: selects those of the images and labels, and unifies Arrow's equivalent types."""

from collections.abc import Mapping, Sequence
from typing import Any

from .base import DataError

# Usual names, best first; case is ignored.
IMAGES = ("image", "img", "images", "image_bytes", "pixel_values", "jpg", "jpeg", "png")
LABELS = ("label", "labels", "fine_label", "fine_labels", "target", "targets", "class", "class_id", "category")
PATHS = ("image_path", "file_name", "filename", "path", "file")


def choose(usual: Sequence[str], names: Sequence[str]) -> tuple[str | None, str]:
    """Returns the column with the first of the `usual` names, and a note if the choice is ambiguous or unusual."""
    found = [name for wanted in usual for name in names if name.lower() == wanted]
    if not found:
        return None, ""
    if len(found) == 1:
        return found[0], "" if found[0] == usual[0] else f"column {found[0]} is taken for {usual[0]}"
    return found[0], f"column {found[0]} is taken for {usual[0]}, not {' or '.join(found[1:])}"


def check_given(given: Mapping[str, str], names: Sequence[str], where: object) -> None:
    """Raises DataError for a given column, by role, that isn't among the names."""
    for role, column in given.items():
        if column not in names:
            raise DataError(f"{where} has no column {column!r} for {role}=; it has {', '.join(names)}.")


def plain(column: Any) -> Any:
    """Returns a pyarrow column with the same values in a basic type, neither dictionary nor view."""
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(column.type):
        return plain(column.cast(column.type.value_type))
    for kind, simple in (("string", pyarrow.large_string()), ("binary", pyarrow.large_binary())):
        is_view = getattr(types, f"is_{kind}_view", None)  # missing in old releases of pyarrow
        if is_view and is_view(column.type):
            return column.cast(simple)
    return column
