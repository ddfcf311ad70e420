"""The contents of the loopback Hub: repositories of commits, and the Hub's metadata of a file."""

import hashlib
import re
from typing import Any

LARGE = (".safetensors", ".bin", ".pt", ".pth", ".npy", ".npz", ".parquet", ".zip", ".tar", ".gz")
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE).encode()


class Repository:
    """A model's commits on the one branch, main, and its tags."""

    def __init__(self, repo_id: str, private: bool = False) -> None:
        self.id = repo_id
        self.private = private
        self.tags: dict[str, str] = {}
        self.commits: dict[str, dict[str, bytes]] = {}  # sha -> every file; oldest first
        self.commit({".gitattributes": GITATTRIBUTES})

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit(self, files: dict[str, bytes]) -> str:
        """All or nothing: the new files take the place of the old in one assignment."""
        listing = [self.id, *self.commits, *(f"{path} {file_oid(path, data)}" for path, data in sorted(files.items()))]
        sha = hashlib.sha1("\n".join(listing).encode()).hexdigest()
        self.commits[sha] = files
        return sha

    def sha(self, revision: str) -> str:
        """Of a branch, a tag or a sha. Raises KeyError."""
        sha = {"main": self.head, **self.tags}.get(revision, revision)
        if sha not in self.commits:
            raise KeyError(revision)
        return sha


def is_large(path: str, size: int) -> bool:
    """Whether a file travels by LFS."""
    return size > 0 and (path.endswith(LARGE) or size > 10 * 2**20)  # the client never sends an empty file by LFS


def file_oid(path: str, data: bytes) -> str:
    """Returns the Hub's hash of a file's content: the sha256 of a large file, git's sha1 of any other."""
    if is_large(path, len(data)):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def read_card(text: str) -> dict[str, Any]:
    """The metadata on top of a README; raises ValueError where it is no YAML mapping."""
    front = re.match(r"---\r?\n(.*?)^---\s*$", text, re.DOTALL | re.MULTILINE)
    try:
        import yaml
    except ImportError:
        return {}
    try:
        data = yaml.safe_load(front[1]) if front else {}
    except yaml.YAMLError as error:
        raise ValueError(f"bad YAML: {error}") from error
    if not isinstance(data or {}, dict):
        raise ValueError("the metadata is no mapping")
    return data or {}
