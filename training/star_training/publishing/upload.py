"""Publishes a saved folder to the Hub: stages it, checks it, then uploads it in one commit."""

import shutil
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, errors
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from star_catalog import store, zoo
from star_catalog.files import replacing_folder, sweep
from star_catalog.reading import one_line
from star_catalog.writing import check_writable
from star_zoo import hub

from . import card
from .license import state


def stage(folder: Path, repo_id: str, out: Path, licence: str | None = None) -> Path:
    """Writes the folder to upload: only known files, and a card whose snippets load the repository.

    `licence` is written to config.json, and the card states it. Raises ValueError or OSError if weights, heads or card
    cannot be published, or if `out` holds other files.
    """
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise ValueError(f"{repo_id!r} is not a repository; pass OWNER/NAME, e.g. star-zoo/star_resnet18.mine")
    files = [path for path in sorted(folder.iterdir()) if _is_ours(path.name) and path.name != "README.md"]
    if links := [path.name for path in files if path.is_symlink()]:
        raise ValueError(f"{folder} holds links, {', '.join(links[:3])}; only files are published, replace the links")
    files = [path for path in files if path.is_file()]
    hub.check(folder)
    out = out.resolve()  # a link is followed, not replaced
    _check_replaceable(out, f"hf-hub:{repo_id}", folder)
    sweep(out.parent, out.name)
    with replacing_folder(out) as part:
        for file in files:
            shutil.copyfile(file, part / file.name)
        if licence:
            state(part / "config.json", licence)
        card.write(part, f"hf-hub:{repo_id}")
    return out


def _is_ours(name: str) -> bool:
    return name in store.FILES or name == "README.md" or (name.endswith(".png") and "/" not in name)


def _check_replaceable(out: Path, name: str, source: Path) -> None:
    """Raises ValueError if a folder holds anything but files that were staged for the same repository, or is in use.

    Raises NotWritten if it can't be written.
    """
    check_writable(out)
    if out == Path.cwd():
        raise ValueError(f"{out} is the working folder, which can't be replaced; pass another one")
    before = list(out.iterdir()) if out.exists() else []
    readme = out / "README.md"
    staged = readme.is_file() and f'"{name}"' in readme.read_text(encoding="utf-8", errors="replace")
    if before and (not staged or out.samefile(source) or not all(_is_ours(path.name) for path in before)):
        raise ValueError(f"{out} holds files that were not staged for {name}; pass an empty folder")


def publish(staged: Path, repo_id: str, *, private: bool = False, tag: str | None = None) -> str:
    """Uploads a staged folder in one commit (none if nothing changed), tags it, and returns `owner/name@commit`.

    Files of an earlier version that this one lacks are deleted, but only files that star-zoo writes. Raises OSError
    with one line if the Hub refuses anything: its files are then unchanged, and the call can be repeated.
    """
    api = HfApi(library_name="star-zoo")
    try:
        ModelCard((staged / "README.md").read_text(encoding="utf-8")).validate()
        api.create_repo(repo_id, private=private, exist_ok=True)
        head = api.model_info(repo_id)
        if private and not head.private:
            raise ValueError("it already exists and is public; private=True is for new repositories only")
        new_tag = tag and _is_new(api, repo_id, tag, str(head.sha), staged)
        names = {path.name for path in staged.iterdir()}
        gone = {file.rfilename for file in head.siblings or () if _is_ours(file.rfilename)} - names
        commit = api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, staged / name) for name in sorted(names)),
                *(CommitOperationDelete(name) for name in sorted(gone)),
            ],
            commit_message=f"Upload {repo_id.partition('/')[2]} with star-zoo",
            parent_commit=head.sha,
        ).oid
        if tag and new_tag:
            api.create_tag(repo_id, tag=tag, revision=commit)
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise OSError(f"{repo_id} could not be published: {_reason(error)}") from error
    return f"{repo_id}@{commit}"


def _reason(error: Exception) -> str:
    """Returns the reason of a failed upload; that the Hub can't be reached, if it is that."""
    if isinstance(error, ValueError) or getattr(error, "response", None) is not None:
        return one_line(error)
    try:
        zoo.check_reachable()
    except zoo.NotAvailable as unreachable:
        return f"{unreachable}; try again with a network (--dry-run writes the folder to upload)"
    return one_line(error)


def _is_new(api: HfApi, repo_id: str, tag: str, head: str, staged: Path) -> bool:
    """Whether a tag must be created. Raises ValueError if it already names another version than the staged one."""
    known = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id).tags}
    if tag not in known:
        return True
    tagged = {
        file.path: file.lfs.sha256 if file.lfs else file.blob_id
        for file in api.list_repo_tree(repo_id, revision=tag)
        if isinstance(file, RepoFile) and _is_ours(file.path)
    }
    found = {path.name: zoo.checksum(path, len(tagged.get(path.name, ""))) for path in staged.iterdir()}
    if known[tag] != head or found != tagged:
        raise ValueError(f"tag {tag!r} already exists for other files; pass a new tag, because tags are never moved")
    return False
