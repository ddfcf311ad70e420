"""Settings of glibc's malloc: keep large blocks instead of returning them to the system, fill new memory."""

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator

# glibc's malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _PERTURB = -1, -2, -4, -6


def keep_large_blocks() -> None:
    """Makes glibc's malloc keep freed memory for the rest of the process; does nothing with other C libraries.

    Each step frees all its activations and allocates as many again. By default, malloc returns large blocks to the
    system, which then clears every page again at its first use.
    """
    if mallopt := _mallopt():
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 2**26)


@contextlib.contextmanager
def filled_memory() -> Iterator[None]:
    """Makes glibc's malloc fill new memory with numbers of 1e37, which exposes reads of uninitialised memory."""
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
