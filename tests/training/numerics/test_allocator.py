"""Large blocks: malloc keeps freed memory and uses it again, except for huge blocks, by its own statistics."""

import ctypes
import subprocess
import sys

import pytest

STATISTICS = """
import ctypes, torch
from star_training.numerics.allocator import keep_large_blocks

class Info(ctypes.Structure):  # struct mallinfo2 of malloc.h
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Info
if {kept}:
    keep_large_blocks()
torch.set_num_threads(1)
for size in 13_000_000, 10_000_000:  # 50 and 38 MiB
    torch.ones(size)  # freed at once
    freed = mallinfo()
    tensor = torch.ones(size)
    print(freed.fordblks >= 4 * size, mallinfo().hblkhd >= 4 * size, mallinfo().arena == freed.arena)
    del tensor
"""


def statistics(kept: bool) -> list[str]:
    """Returns, for each size, if malloc kept the freed block, if it maps the next one, if its heap is unchanged."""
    command = [sys.executable, "-c", STATISTICS.format(kept=kept)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
def test_large_blocks_are_kept_and_used_again():
    assert statistics(kept=False) == ["False True True", "False True True"]
    assert statistics(kept=True) == ["False True True", "True False True"]
