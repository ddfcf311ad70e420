"""A disk that is full, for the tests."""

import contextlib
import resource
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def files_end_at(count: int) -> Iterator[None]:
    """Within it no file grows beyond `count` bytes: writing starts, then fails for real, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
