"""Memory for large tensors that the process keeps, instead of asking the system for fresh pages at every step."""

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator

# glibc's malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _PERTURB = -1, -2, -4, -6


def keep_large_blocks() -> None:
    """Makes glibc's malloc keep what is freed, for the rest of the process; elsewhere it does nothing.

    A step frees all its activations and asks for as many again. By default malloc hands blocks above some size back to
    the system, which then clears each page anew when it is written to.
    """
    if mallopt := _mallopt():
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 2**26)


@contextlib.contextmanager
def filled_memory() -> Iterator[None]:
    """Inside, glibc's malloc fills new memory with numbers of 1e37, so that whoever reads it unwritten shows."""
    mallopt = _mallopt()
    if mallopt:
        mallopt(_PERTURB, 0x7E ^ 0xFF)
    try:
        yield
    finally:
        if mallopt:
            mallopt(_PERTURB, 0)


def _mallopt() -> Callable[[int, int], int] | None:
    """glibc's function, None with other C libraries."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).mallopt
    except AttributeError:
        return None
