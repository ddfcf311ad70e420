"""Locates the files of a model: a saved folder, or of a tag the local store, the package, or the Hub, in that order."""

import functools
import os
import time
from pathlib import Path
from typing import NamedTuple

from . import store
from .files import user_path
from .names import folders
from .reading import one_line

HUB_OWNER = "star-zoo"  # owner of the repositories of the published tags; STAR_ZOO_HUB_ORG overrides it
EMBEDDED = Path(folders("star_zoo")[0], "weights")
HUB_PREFIX = "hf-hub:"
WAY_OUT = "try again with a network, or pass a saved folder"  # where the Hub can't be reached


class NotAvailable(RuntimeError):
    """Raised if a model's files are not available; the message lists the places tried and the ways out.

    `reason` is the message without the way out, for a message that has others.
    """

    def __init__(self, reason: str, way_out: str = ""):
        super().__init__(f"{reason}; {way_out}" if way_out else reason)
        self.reason = reason


class Repository(NamedTuple):
    """A model on the Hub."""

    id: str  # owner/name
    revision: str | None = None  # a branch, a tag or a commit; None: the newest commit of the main branch

    @classmethod
    def parse(cls, name: str) -> "Repository":
        """Parses `owner/name` or `owner/name@revision`, with or without `hf-hub:`. Raises ValueError."""
        repo_id, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
        if len(parts := repo_id.split("/")) != 2 or not all(parts):
            raise ValueError(f"{name!r} is not the name of a model on the Hub; pass hf-hub:OWNER/NAME[@REVISION]")
        return cls(repo_id, revision or None)

    def __str__(self) -> str:
        return self.id + (f"@{self.revision}" if self.revision else "")


def owner() -> str:
    """Returns the owner of the repositories on the Hub that hold the tags."""
    return os.environ.get("STAR_ZOO_HUB_ORG") or HUB_OWNER


def find(tag: str, pinned: str | None = None) -> Path | Repository:
    """Returns the local folder or the repository of a tag's model, without downloading anything.

    `pinned` is the registry's repository for the tag, `owner/name@revision`; it is ignored if `STAR_ZOO_HUB_ORG` sets
    another owner. Raises ValueError for an invalid tag.
    """
    for folder in (store.folder(tag), EMBEDDED / tag):
        if (folder / "model.safetensors").is_file():
            return folder
    if pinned and owner() == HUB_OWNER:
        return Repository.parse(pinned)
    return Repository(f"{owner()}/{tag}")


def exported(name: str) -> Path | None:
    """Returns the folder of a saved model that a name means: the folder itself, or `export/` in a run's; None if none.

    Raises ValueError for a folder without a model, and for a path to nothing.
    """
    folder = user_path(name.removeprefix("local-dir:"))
    for candidate in (folder, folder / "export"):
        if (candidate / "config.json").is_file():
            return candidate
    if folder.is_dir():
        raise ValueError(f"{folder} holds no exported model; pass a finished run or a folder with a config.json")
    if name.startswith("local-dir:") or is_path(name):
        raise ValueError(
            f"{name!r} doesn't exist; pass a run or a saved folder, or hf-hub:OWNER/NAME for one on the Hub"
        )
    return None


def is_path(name: str) -> bool:
    """Returns whether the name of a model can only be a path: it starts with . or ~, or has a / without a scheme."""
    return name.startswith((".", "~")) or "/" in name.partition(":")[0]


def called(folder: Path) -> str:
    """Returns the name of a saved folder in records, without its place on this machine; an export has its run's."""
    folder = folder.resolve()
    return {"export": folder.parent.name, "export_best": f"{folder.parent.name}-best"}.get(folder.name, folder.name)


def fetch(place: Path | Repository, filename: str, cache_dir: str | Path | None = None) -> Path:
    """Returns the local path of one file of a model; a file on the Hub is downloaded to the cache of the Hub's client.

    Raises FileNotFoundError if the model has no such file, and NotAvailable if the download fails.
    """
    if isinstance(place, Repository):
        return _download(place, filename, cache_dir)
    if not (place / filename).is_file():
        raise FileNotFoundError(f"{place} has no {filename}; save_pretrained and finished runs write it")
    return place / filename


def fetch_weights(place: Path | Repository) -> Path | None:
    """Returns `fetch` of model.safetensors; None for a model without it, e.g. an old repository of timm's.

    Without a connection, a repository has none if the cache holds its pytorch_model.bin, which timm loads instead.
    Raises NotAvailable if the download fails.
    """
    try:
        return fetch(place, "model.safetensors")
    except FileNotFoundError:
        return None
    except NotAvailable:
        from huggingface_hub import try_to_load_from_cache

        if isinstance(place, Path):
            raise
        if try_to_load_from_cache(place.id, "pytorch_model.bin", revision=place.revision):
            return None
        raise


def _download(repository: Repository, filename: str, cache_dir: str | Path | None) -> Path:
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    repo_id, revision = repository
    try:
        before = try_to_load_from_cache(repo_id, filename, cache_dir, revision)
        if not before:
            check_downloadable(f"{filename} of {repository} is")
        path = Path(hf_hub_download(repo_id, filename, revision=revision, cache_dir=cache_dir, library_name="star-zoo"))
    except NotAvailable:
        raise
    except errors.GatedRepoError as error:
        raise NotAvailable(f"{repository} is gated; accept its terms on the Hub, then run `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise NotAvailable(
            f"{repository} does not exist on the Hub, or it is private and needs `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NotAvailable(f"{repository.id} on the Hub has no revision {repository.revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        reason = one_line(error.__cause__ or error)
        raise NotAvailable(
            f"{filename} of {repository} is not in the cache, and the Hub can't be reached ({reason})", WAY_OUT
        ) from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(f"{repository} on the Hub has no {filename}") from error
    except Exception as error:  # of the client, Xet or the HTTP library, which differs between versions of the client
        raise NotAvailable(f"{filename} of {repository} can't be downloaded: {one_line(error)}") from error
    if str(path) != before:
        _verify(path, repository)
    return path


def check_downloadable(wanted: str, way_out: str = WAY_OUT) -> None:
    """Raises NotAvailable if the Hub can't be reached: "WANTED not in the cache", with the way out."""
    try:
        check_reachable()
    except NotAvailable as error:
        raise NotAvailable(f"{wanted} not in the cache, and {error}", way_out) from error


def check_reachable() -> None:
    """Raises NotAvailable if the Hub can't be reached in two attempts; the client alone tries for half a minute."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:  # which the client reports
        _connect(constants.ENDPOINT, constants.HF_HUB_ETAG_TIMEOUT)


@functools.cache
def _connect(endpoint: str, timeout: float) -> None:
    from huggingface_hub.utils import get_session

    for last in (False, True):
        try:
            get_session().head(endpoint, timeout=timeout)
            return
        except Exception as error:  # of the HTTP library, which differs between versions of the client
            if last:
                raise NotAvailable(f"the Hub can't be reached ({one_line(error)})") from error
            time.sleep(1)


def _verify(path: Path, repository: Repository) -> None:
    """Checks a new download against the checksum that names it in the cache; the client compares the size alone.

    Raises NotAvailable, and removes the file, if they differ.
    """
    blob = path.resolve()
    if len(blob.name) not in (40, 64):
        return  # on a file system without links, the cache has no checksum
    if checksum(blob, len(blob.name)) != blob.name:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise NotAvailable(
            f"{path.name} of {repository} was damaged in the download (wrong checksum) and is removed; try again"
        )


def checksum(path: Path, length: int) -> str:
    """Returns a file's checksum as the Hub computes it: sha256 if `length` is 64 (large files), else git's sha1."""
    from huggingface_hub.utils.sha import git_hash, sha_fileobj

    if length != 64:
        return git_hash(path.read_bytes())
    with path.open("rb") as file:
        return sha_fileobj(file).hex()
