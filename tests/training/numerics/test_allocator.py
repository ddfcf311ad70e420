"""Large blocks: malloc keeps freed memory and uses it again, by its own statistics."""

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
torch.ones(10_000_000)  # 40 MB, freed at once
freed = mallinfo()
tensor = torch.ones(10_000_000)
print(freed.fordblks >= 40_000_000, mallinfo().hblkhd >= 40_000_000, mallinfo().arena == freed.arena)
"""


def statistics(kept: bool) -> str:
    """Returns whether malloc kept the freed block, whether it maps the next one, whether its heap is unchanged."""
    command = [sys.executable, "-c", STATISTICS.format(kept=kept)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
def test_large_blocks_are_kept_and_used_again():
    assert statistics(kept=False) == "False True True"
    assert statistics(kept=True) == "True False True"
