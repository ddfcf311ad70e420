"""One line on a data set before anything runs on it: images, splits, classes, and all that is left out."""

from .source import NoSuchSplit, Source
from .splits import Splits


def summary(source: Source) -> str:
    """The line on the whole data set of a source; its labels are those of the source's split.

    "photos: 1,250 images of 12 classes in train, 300 in test; left out: 3 .heic files (not readable here)"
    """
    found = source.inventory
    parts = []
    for name, count in (found.images or {"all": len(source)}).items():
        known = name if count is None else f"{count:,} in {name}"
        parts.append(known)
    counted = ", ".join(parts)
    line = [f"{source.name}: images {_labelled(source)}: {counted}", *found.notes]
    if found.left_out:
        line.append(f"left out: {', '.join(found.left_out)}")
    return one_line("; ".join(line))


def _labelled(source: Source) -> str:
    if source.targets is None:
        why = source.inventory.unlabelled
        return f"without labels ({why})" if why else "without labels"
    if source.targets.is_floating_point():
        return "with numbers to predict"
    count = len(source.classes or ()) or len(source.targets.unique())
    return f"of {count:,} class{'es' if count != 1 else ''}"


def summary_of(splits: Splits) -> str:
    """The line on a data set of which no split is open yet. Raises DataError where none can be opened."""
    try:
        return summary(splits.test)  # which all protocols use: nothing is opened in vain
    except NoSuchSplit:
        return summary(splits.train)


def one_line(text: str) -> str:
    """The text with what would break the line or the terminal escaped: names of files may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
