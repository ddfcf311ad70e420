"""Remembers facts that take a pass over a data set's images: their decoded size, and which of them don't decode.

Both are cached by the fingerprint of the contents and by the version of the decoder, so that a later process decodes
images only if it uses them.
"""

from collections.abc import Iterable

import PIL

from .contents import keep, kept
from .sources.raw import digest


def undecodable(fingerprint: str) -> list[int] | None:
    """Returns the indices of the images that don't decode; None if not all images were tried yet."""
    text = kept(_key("undecodable", fingerprint))
    return None if text is None else [int(index) for index in text.split()]


def note_undecodable(fingerprint: str, indices: Iterable[int]) -> None:
    """Caches the indices of the images that don't decode, after all images were tried."""
    keep(_key("undecodable", fingerprint), " ".join(map(str, sorted(indices))))


def decoded_bytes(fingerprint: str) -> int | None:
    """Returns the estimated size of all decoded images in bytes; None if it isn't cached."""
    text = kept(_key("decoded bytes", fingerprint))
    return None if text is None else int(text)


def note_decoded_bytes(fingerprint: str, estimate: int) -> None:
    """Caches the estimated size of all decoded images in bytes."""
    keep(_key("decoded bytes", fingerprint), str(estimate))


def _key(fact: str, fingerprint: str) -> str:
    return digest((fact, fingerprint, PIL.__version__))
