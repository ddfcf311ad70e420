"""Memory for large tensors that the process keeps, instead of asking the system for fresh pages at every step."""

import ctypes
import sys

# glibc's malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_large_blocks() -> None:
    """Makes glibc's malloc keep what is freed, for the rest of the process; elsewhere it does nothing.

    A step frees all its activations and asks for as many again. By default malloc hands blocks above some size back to
    the system, which then clears each page anew when it is written to.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_TOP_PAD, 2**26)
