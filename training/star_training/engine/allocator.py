"""Keeps the memory of freed large tensors in the process, so that no step requests fresh pages from the system."""

import ctypes
import sys

# glibc's malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_large_blocks() -> None:
    """Makes glibc's malloc keep freed memory for the rest of the process; does nothing with other C libraries.

    Each step frees its activations and allocates as much again. By default, malloc returns large blocks to the system,
    which then clears every page again on its first write.
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
