"""Limits and measures the memory of this process, on Linux."""

import contextlib
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

_STATUS = Path("/proc/self/status")


def _status(name: str) -> int:
    """A size of this process in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


@contextlib.contextmanager
def at_most(more: int) -> Iterator[None]:
    """Lets allocations fail that need more than so many further bytes of addresses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def growth(work: Callable[[], object]) -> int:
    """The bytes by which this process grows at most while `work` runs."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at the present size
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before
