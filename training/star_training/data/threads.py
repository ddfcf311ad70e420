"""Work on many images or files in threads: reading, hashing and decoding all leave the interpreter lock."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_threads(work: Callable[[range], T], count: int, block: int) -> Iterator[T]:
    """Yields `work` of each block of the indices 0 to count - 1, in order.

    A few blocks at a time are worked on: that bounds what waits to be taken, and an interrupt ends soon.
    """
    threads = os.cpu_count() or 1
    blocks = [range(start, min(start + block, count)) for start in range(0, count, block)]
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(blocks), 4 * threads):
            yield from pool.map(work, blocks[first : first + 4 * threads])
