"""Publishing a saved folder to the Hub: staged as it will be, checked, then uploaded in one commit."""

import json
import re
import shutil
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, errors

from star_zoo import hub, store
from star_zoo.files import write_json

from . import card

REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


def stage(folder: Path, repo_id: str, out: Path, licence: str | None = None) -> Path:
    """Writes the folder that is to be uploaded: known files alone, and a card whose snippets load the repository.

    `licence` goes into config.json, and from there into the card. Raises ValueError or OSError where weights, heads or
    card are not fit to be published, or `out` holds something else.
    """
    if not REPO_ID.fullmatch(repo_id):
        raise ValueError(f"{repo_id!r} is no repository; give OWNER/NAME, such as star-zoo/star_resnet18.mine")
    hub.check(folder)
    files = [*(folder / name for name in store.FILES), *sorted(folder.glob("*.png"))]
    _make_empty(out, {"README.md", *(file.name for file in files)})
    for file in filter(Path.is_file, files):
        shutil.copyfile(file, out / file.name)
    if licence:
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        config["pretrained_cfg"]["license"] = licence
        write_json(out / "config.json", config)
    card.write(out, f"hf-hub:{repo_id}")
    return out


def _make_empty(folder: Path, ours: set[str]) -> None:
    """Makes a folder, or empties one that an earlier call wrote. Raises ValueError rather than remove anything else."""
    folder.mkdir(parents=True, exist_ok=True)
    if foreign := sorted(path.name for path in folder.iterdir() if path.name not in ours):
        raise ValueError(f"{folder} holds {', '.join(foreign[:3])}, which star-zoo did not write; give an empty folder")
    for path in folder.iterdir():
        path.unlink()


def publish(staged: Path, repo_id: str, *, private: bool = False, tag: str | None = None) -> str:
    """Uploads a staged folder in one commit, none if nothing changed, and tags it; gives `owner/name@commit`.

    Raises OSError, in one line, for whatever the Hub refuses; the repository is then as it was.
    """
    api = HfApi(library_name="star-zoo")
    try:
        ModelCard((staged / "README.md").read_text(encoding="utf-8")).validate()
        api.create_repo(repo_id, private=private, exist_ok=True)
        title = f"Upload {repo_id.partition('/')[2]} with star-zoo"
        api.upload_folder(repo_id=repo_id, folder_path=staged, commit_message=title)
        commit = api.model_info(repo_id).sha
        if tag:
            _tag(api, repo_id, tag, str(commit))
    except (errors.HfHubHTTPError, OSError, RuntimeError, ValueError) as error:
        raise OSError(f"{repo_id} could not be published: {' '.join(str(error).split())[:300]}") from error
    return f"{repo_id}@{commit}"


def _tag(api: HfApi, repo_id: str, tag: str, commit: str) -> None:
    known = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id).tags}
    if tag not in known:
        api.create_tag(repo_id, tag=tag, revision=commit)
    elif known[tag] != commit:
        raise ValueError(f"tag {tag!r} is already there, at {known[tag][:10]}; tags don't move, give a new one")
