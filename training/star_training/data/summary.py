"""A one-line summary of a data set, printed before its use: images, splits, classes, and files left out."""

from typing import TextIO

from star_catalog.printing import printable

from ..messages import quiet
from .eval_sets.dataset import Splits
from .sources.base import NoSuchSplit, Source
from .sources.subset import note_of_ids
from .split_names import kind_of


def summary(source: Source, *others: Source | None) -> str:
    """Returns the summary of a source's whole data set; the labels are those of the source's split.

    `others` are further open splits. They supply their counts, because a source may only know its own split's count if
    counting takes a pass over the data. Example:

    "photos: 1,250 images of 12 classes in train, 300 in test; left out: a.heic, b.heic (not readable here)"
    """
    found = source.inventory
    counts = dict(found.images or {"all": len(source)})
    for other in filter(None, others):
        counts |= {name: count for name, count in other.inventory.images.items() if count is not None}
    (first, number), *rest = sorted(counts.items(), key=_order)
    images = "images" if number is None else "1 image" if number == 1 else f"{number:,} images"
    parts = [f"{images} {_labelled(source)} in {first}"]
    parts += [f"{'more' if count is None else f'{count:,}'} in {name}" for name, count in rest]
    line = [f"{source.name}: {', '.join(parts)}", *found.notes, *note_of_ids(source)]
    if found.left_out:
        line.append(f"left out: {', '.join(found.left_out)}")
    return printable("; ".join(line))


def summary_of_training(source: Source, held_out: Source | None) -> str:
    """Returns the summary, with the number of images to train on if it isn't that of a split."""
    line, counts = summary(source, held_out), source.inventory.images.values()
    return f"{line}; {len(source):,} to train on" if counts and len(source) not in counts else line


def _order(split: tuple[str, int | None]) -> tuple[int, str]:
    kinds = ("train", "val", "test", None)
    return kinds.index(kind_of(split[0])), split[0]


def _labelled(source: Source) -> str:
    if source.targets is None:
        why = source.inventory.unlabelled
        return f"without labels ({why})" if why else "without labels"
    if source.targets.is_floating_point():
        return "with numbers to predict"
    count = len(source.classes or ()) or len(source.targets.unique())
    return f"of {count:,} class{'es' if count != 1 else ''}"


class Summaries:
    """Prints the summary of each data set once, before its first use."""

    def __init__(self, file: TextIO):
        self._file = file
        self._printed: set[str] = set()

    def print(self, splits: Splits) -> None:
        """Prints the summary of a data set, unless it was printed or -q was given.

        Raises DataError if no split can be opened.
        """
        if quiet() or splits.spec in self._printed:
            return
        from tqdm import tqdm

        try:
            source, note = splits.test, splits.note  # all protocols open the test split anyway
        except NoSuchSplit:
            source, note = splits.train, ""
        with tqdm.external_write_mode(file=self._file):  # a bar in progress moves below
            print("\n".join(filter(None, (summary(source), printable(note)))), file=self._file, flush=True)
        self._printed.add(splits.spec)
