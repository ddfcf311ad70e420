"""Streams for the tests: shards on a disk, and a server that breaks off on request."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from data_cases import BROKEN, png, write_tar


def shards(folder: Path, counts: list[int], broken: tuple[int, ...] = (), size: tuple[int, int] = (40, 36)) -> str:
    """Shards of so many images each, numbered through; gives the pattern of their names."""
    number = 0
    for shard, count in enumerate(counts):
        members = {}
        for k in range(number, number + count):
            members |= {f"{k:03d}.cls": b"0", f"{k:03d}.png": BROKEN if k in broken else png(k, size)}
        write_tar(folder / f"s-{shard}.tar", members)
        number += count
    return str(folder / f"s-{{0..{len(counts) - 1}}}.tar")


@dataclass
class Site:
    """A server of a folder's files."""

    folder: Path
    address: str = ""
    cuts: dict[str, list[int]] = field(default_factory=dict)  # by path: bytes after which the next answers break off
    asked: list[str] = field(default_factory=list)  # what was asked for, in order


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Site]:
    """A real server on this machine, in a thread."""
    site = Site(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.partition("?")[0].lstrip("/")
            site.asked.append(name)
            if not (site.folder / name).is_file():
                self.send_error(404)
                return
            data = (site.folder / name).read_bytes()
            cuts = site.cuts.get(name)
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # a reader needs nothing behind the end mark
                self.wfile.write(data[: cuts.pop(0)] if cuts else data)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        site.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
