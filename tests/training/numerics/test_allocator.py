"""Large blocks are kept: what a step frees is taken again without new pages from the system."""

import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from star_training.numerics.allocator import keep_large_blocks
if {kept}:
    keep_large_blocks()
torch.set_num_threads(1)
def step():
    torch.ones(10_000_000)  # 40 MB, and freed
for _ in range(20):  # small blocks that stay find their places first
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(kept: bool) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(kept=kept)], capture_output=True, text=True, check=True, timeout=120
    )
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc alone is told")
def test_a_step_touches_no_fresh_pages():
    pages = 5 * 40_000_000 // resource.getpagesize()
    assert faults(kept=False) > pages / 600  # at least one for each of the largest pages there are, 2 MiB
    assert faults(kept=True) < pages / 600
