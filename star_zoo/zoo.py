"""Where the files of a tag are: in the local store, in the package itself, or on the Hub; looked for in that order."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from . import store

HUB_OWNER = "star-zoo"  # whose repositories hold the published tags; STAR_ZOO_HUB_ORG names another owner
EMBEDDED = Path(__file__).parent / "weights"
HUB_PREFIX = "hf-hub:"


class NotAvailable(RuntimeError):
    """A model's files can't be had; the message says what was tried and the ways out."""


class Repository(NamedTuple):
    """A model on the Hub."""

    id: str
    revision: str | None = None  # a branch, a tag or a commit; None is the newest

    @classmethod
    def parse(cls, name: str) -> "Repository":
        """From `owner/name` or `owner/name@revision`, with or without `hf-hub:`. Raises ValueError."""
        repo_id, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
        if len(parts := repo_id.split("/")) != 2 or not all(parts):
            raise ValueError(f"{name!r} is no model on the Hub; give hf-hub:OWNER/NAME, with @REVISION if you like")
        return cls(repo_id, revision or None)

    def __str__(self) -> str:
        return self.id + (f"@{self.revision}" if self.revision else "")


def owner() -> str:
    """Whose repositories on the Hub hold the tags."""
    return os.environ.get("STAR_ZOO_HUB_ORG") or HUB_OWNER


def find(name: str, pinned: str | None = None) -> Path | Repository:
    """Where a tag's model is: a folder of this machine, or a repository. Nothing is downloaded yet.

    `pinned` is the repository, `owner/name@revision`, that the registry holds for the tag; it counts only as long as
    no other owner is asked for. Raises ValueError for what can't be a tag.
    """
    for folder in (store.folder(name), EMBEDDED / name):
        if (folder / "model.safetensors").is_file():
            return folder
    if pinned and owner() == HUB_OWNER:
        return Repository.parse(pinned)
    return Repository(f"{owner()}/{name}")


def fetch(place: Path | Repository, filename: str, cache_dir: str | Path | None = None) -> Path:
    """One file of a model, as a path of this machine; downloaded into the Hub client's cache where it has to be.

    Raises FileNotFoundError if the model has no such file, NotAvailable if its repository can't be had.
    """
    if isinstance(place, Repository):
        return _download(place, filename, cache_dir)
    if not (place / filename).is_file():
        raise FileNotFoundError(f"{place} has no {filename}; it is written by save_pretrained or a finished run")
    return place / filename


def _download(repository: Repository, filename: str, cache_dir: str | Path | None) -> Path:
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    repo_id, revision = repository
    try:
        before = try_to_load_from_cache(repo_id, filename, cache_dir, revision)
        path = Path(hf_hub_download(repo_id, filename, revision=revision, cache_dir=cache_dir, library_name="star-zoo"))
    except errors.GatedRepoError as error:
        raise NotAvailable(
            f"{repository} asks for its terms to be accepted on the Hub, and for `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise NotAvailable(
            f"there is no {repository} on the Hub, or it is private and needs `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NotAvailable(f"{repository.id} on the Hub has no revision {repository.revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        why = _one_line(error.__cause__ or error)
        raise NotAvailable(
            f"{filename} of {repository} is not in the cache, and the Hub can't be reached ({why})"
        ) from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(f"{repository} on the Hub has no {filename}") from error
    except Exception as error:  # of the client, of Xet or of whatever carries HTTP, which differs between its versions
        raise NotAvailable(f"{filename} of {repository} can't be had from the Hub: {_one_line(error)}") from error
    if str(path) != before:
        _verify(path, repository)
    return path


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _verify(path: Path, repository: Repository) -> None:
    """Compares a fresh download with the checksum that names it in the cache: the client looks at the size alone."""
    blob = path.resolve()
    if len(blob.name) not in (40, 64):
        return  # a file system without links: the cache doesn't know the checksum
    if checksum(blob, len(blob.name)) != blob.name:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise NotAvailable(
            f"{path.name} of {repository} arrived damaged, with another checksum; it was removed, try again"
        )


def checksum(path: Path, length: int) -> str:
    """What the Hub calls a file's content: its sha256, of 64 digits, if it is a large one, git's sha1 of 40 if not."""
    sha = hashlib.sha256() if length == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            sha.update(part)
    return sha.hexdigest()
