"""Sources without images that don't decode, for whatever pairs an image with its target or its place."""

import PIL
import torch

from .contents import keep, kept
from .decode import Picture
from .sources.base import DataError, Opens, Source
from .sources.raw import digest
from .sources.subset import Part
from .threads import in_threads

_BLOCK = 32  # images that a thread decodes in one go
_tried: set[str] = set()  # sources all of whose images decoded in this process


class Intact(Part):
    """The images of a source that decode."""


def intact(source: Source) -> Source:
    """The images of `source` that decode, as a source that is decoded beforehand has them.

    A source that decodes on access lets the next good image stand in for a bad one, which suits training alone. Every
    image is tried once, in threads; that all decode is remembered by the fingerprint. Warns `BadImageWarning` of images
    that don't, DataError above `max_bad`.
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
    """Raises DataError where images that decoded when they were tried no longer do, so that others stood in."""
    if source.bad:
        told = f"{len(source.bad)} images of {source.name} don't decode, such as {source.describe(source.bad[0])}"
        raise DataError(f"{told}, but did when they were first tried; see that nothing changes them, then try again.")


def _decoded(picture: Picture) -> None:
    picture.shrunk(1)
