"""Sources without undecodable images, for code that pairs an image with its target or index."""

from collections.abc import Sequence

import torch

from ..messages import busy
from .decode import Picture
from .sources.base import Source, decodes_on_access, now_bad, open_image
from .sources.subset import Part
from .threads import in_threads
from .tried import note_undecodable, undecodable

_BLOCK = 32  # images decoded per task
_intact: set[str] = set()  # fingerprints of the sources whose images all decode, if that can't be cached


class Intact(Part):
    """The decodable images of a source."""


def intact(source: Source) -> Source:
    """Returns `source` without its undecodable images, as `CachedSource` leaves them out.

    A source that decodes on access replaces a bad image by the next good one, which is only suitable for training.
    Every image is decoded once, in threads; afterwards only those that didn't decode are tried again, for the warning.
    Warns `BadImageWarning` about undecodable images. Raises DataError if their fraction exceeds `max_bad`.
    """
    if not decodes_on_access(source) or isinstance(source, Intact):
        return source
    fingerprint = source.fingerprint
    if fingerprint in _intact:
        return source
    known = undecodable(fingerprint)
    _try(source, range(len(source)) if known is None else known)
    bad = source.bad
    if known is None:
        note_undecodable(fingerprint, bad)
    source.check_bad()
    if bad:
        good = torch.ones(len(source), dtype=torch.bool)
        good[list(bad)] = False
        return Intact(source, good.nonzero().flatten())
    _intact.add(fingerprint)
    return source


def _try(source: Source, images: Sequence[int]) -> None:
    """Decodes the images, so that the source knows the bad ones."""

    tried = 0

    def attempt(block: range) -> int:
        for place in block:
            open_image(source, images[place], _decoded)
        return len(block)

    with busy(lambda: f"trying whether the images of {source.name} decode: {tried:,} of {len(images):,}"):
        for count in in_threads(attempt, len(images), _BLOCK):
            tried += count


def check_intact(source: Source) -> None:
    """Raises DataError if images that decoded in `intact` no longer do, because other images replaced them."""
    if source.bad:
        raise now_bad(source.name, len(source.bad), source.describe(source.bad[0]))


def _decoded(picture: Picture) -> None:
    picture.shrunk(8)  # a JPEG is read to its end at any size, and decoded sooner at a smaller one
