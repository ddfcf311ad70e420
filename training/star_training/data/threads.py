"""Processes many images or files in threads, because reading, hashing and decoding release the GIL."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_threads(work: Callable[[range], T], count: int, block: int) -> Iterator[T]:
    """Yields `work(block)` for each block of the indices 0 to count - 1, in order.

    Few blocks are submitted at a time, which bounds the results in memory and the time to stop after an interrupt.
    """
    threads = os.cpu_count() or 1
    blocks = [range(start, min(start + block, count)) for start in range(0, count, block)]
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(blocks), 4 * threads):
            yield from pool.map(work, blocks[first : first + 4 * threads])
