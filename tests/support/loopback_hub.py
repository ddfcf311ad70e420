"""A Hugging Face Hub on loopback: the real client uploads to it and downloads from it, over HTTP.

It serves model repositories out of memory, each with the one branch main: create, commit (large files by LFS), tag,
list, download. Status codes and headers are the real Hub's, as is the first commit that holds .gitattributes.
huggingface_hub reads its environment once, when it is imported, so a test talks to the hub by loopback_client.client, a
process of its own.
"""

import threading
from collections.abc import Mapping
from pathlib import Path

import loopback_routes  # noqa: F401  # the endpoints
from loopback_http import TOKEN, Server
from loopback_repository import Repository


class LoopbackHub:
    """The server and its faults; `with LoopbackHub() as hub:` starts and stops it."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[str, str]] = []  # method, path without its query; everything asked, in order
        # the faults, none of them on: a test sets them at any time
        self.fail: int | None = None  # every request is answered with this status,
        self.fail_at = ""  # of those whose "METHOD path" holds this
        self.gated: dict[str, int] = {}  # repository -> 401 or 403, the answer to every download from it
        self.drop_after: int | None = None  # the connection ends after so many bytes of a file, at every other download
        self.drop_always: set[str] = set()  # repositories: at each
        self.corrupt: set[str] = set()  # files, or owner/name/file, of which a byte changes on the way, and no header
        self.cut_uploads = False  # the connection ends while a large file is being received

        self._repositories: dict[str, Repository] = {}
        self._large: dict[str, bytes] = {}  # by sha256: what was received, of whatever repository
        self._dropped: set[str] = set()  # paths of which the next download is left whole
        self._lock = threading.RLock()  # whoever reads or changes any of the above holds it
        self._server: Server | None = None
        self._port = 0

    def start(self) -> "LoopbackHub":
        """Listens; after a stop, on the same port again."""
        self._server = Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_port
        self.url = f"http://127.0.0.1:{self._port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuses connections from now on, and ends those that clients keep open."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.stop()

    def env(self, home: Path) -> dict[str, str]:
        """What a process needs to take this for the Hub, with its cache in `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",  # which knows no plain HTTP upload
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "no_proxy": "127.0.0.1",
        }

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Every file of a repository at a revision."""
        with self._lock:
            repository = self._repositories[repo_id]
            return dict(repository.commits[repository.sha(revision)])

    def commits(self, repo_id: str) -> list[str]:
        """The shas on main, oldest first."""
        with self._lock:
            return list(self._repositories[repo_id].commits)

    def put(self, repo_id: str, files: Mapping[str, bytes]) -> str:
        """Adds files in a commit, without HTTP, to a repository that is created if there is none; gives the sha."""
        with self._lock:
            repository = self._repositories.setdefault(repo_id, Repository(repo_id))
            return repository.commit({**repository.commits[repository.head], **files})
