"""This machine's memory, which limits requests by files."""

import os


def memory() -> int:
    """Returns the machine's memory in bytes; 32 GiB where the system doesn't report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # e.g. Windows
        return 2**35
