"""Sources without undecodable images, for code that pairs an image with its target or index."""

import PIL
import torch

from .contents import keep, kept
from .decode import Picture
from .sources.base import DataError, Opens, Source
from .sources.raw import digest
from .sources.subset import Part
from .threads import in_threads

_BLOCK = 32  # images decoded per task
_tried: set[str] = set()  # keys of the sources whose images all decoded in this process


class Intact(Part):
    """The decodable images of a source."""


def intact(source: Source) -> Source:
    """Returns `source` without its undecodable images, as `CachedSource` leaves them out.

    A source that decodes on access replaces a bad image by the next good one, which is only suitable for training.
    Every image is decoded once, in threads; if all decode, that is cached by the source's fingerprint.
    Warns `BadImageWarning` about undecodable images. Raises DataError if their fraction exceeds `max_bad`.
    """
    if not isinstance(source, Opens) or isinstance(source, Intact):
        return source
    key = digest(("all decode", source.fingerprint, PIL.__version__))
    if key in _tried or kept(key):
        return source

    def attempt(indices: range) -> None:
        for index in indices:
            source.open(index, _decoded)

    for _ in in_threads(attempt, len(source), _BLOCK):
        pass
    source.check_bad()
    bad = torch.zeros(len(source), dtype=torch.bool)
    bad[list(source.bad)] = True
    if bad.any():
        return Intact(source, (~bad).nonzero().flatten())
    _tried.add(key)
    keep(key, "yes")
    return source


def check_intact(source: Source) -> None:
    """Raises DataError if images that decoded in `intact` no longer do, because other images replaced them."""
    if source.bad:
        bad = f"{len(source.bad)} images of {source.name} don't decode, e.g. {source.describe(source.bad[0])}"
        raise DataError(f"{bad}, but they did at first; make sure that nothing changes them, then try again.")


def _decoded(picture: Picture) -> None:
    picture.shrunk(1)
