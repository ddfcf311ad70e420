"""What a model may be called: a run, a saved folder, a zoo tag, `hf-hub:OWNER/NAME`, or any timm name."""

import contextlib
from pathlib import Path

from star_zoo import Objective, load_objective, star_backbones, zoo


def model_folder(name: str) -> Path | None:
    """The folder with an exported model that a name means: an export, or a run that has one; None for other names."""
    folder = Path(name.removeprefix("local-dir:"))
    for candidate in (folder, folder / "export"):
        if (candidate / "config.json").is_file():
            return candidate
    if folder.is_dir():
        raise ValueError(f"{folder} holds no exported model; give a finished run or a folder with a config.json")
    return None


def called(name: str) -> str:
    """What records and tables call a model: a run or folder by its name alone, for where it lies tells nobody anything.

    Other names are as they are. Records are published, and a user's folders aren't for all to see.
    """
    folder = Path(name.removeprefix("local-dir:"))
    if not folder.exists():
        return name
    folder = folder.resolve()
    return folder.parent.name if folder.name == "export" else folder.name


def saved_folder(name: str) -> Path:
    """As `model_folder`, for what works on folders alone. Raises ValueError for other names."""
    folder = model_folder(name)
    if folder is None:
        raise ValueError(f"{name!r} doesn't exist; give a run or a saved folder")
    return folder


def tag_folder(tag: str) -> Path | None:
    """The folder of this machine with a star_* tag's weights, installed or in the package; None for other names."""
    if not tag.startswith("star_"):
        return None
    place = star_backbones.place(tag)
    return place if isinstance(place, Path) else None


def timm_name(name: str) -> str:
    """The same model as timm's `create_model` takes it; `timm:` may stand before timm's own names.

    What is on the Hub is downloaded here already: timm would take a damaged file for a good one. Raises NotAvailable.
    """
    folder = model_folder(name)
    if name.startswith(zoo.HUB_PREFIX):
        with contextlib.suppress(FileNotFoundError):  # timm's own older repositories hold no safetensors
            zoo.fetch(zoo.Repository.parse(name), "model.safetensors")
    return f"local-dir:{folder}" if folder else name.removeprefix("timm:")


def saved_objective(name: str) -> Objective | None:
    """The objective that was published or saved beside a model; None for backbones alone, as most timm models are."""
    name = timm_name(name)
    if not name.startswith(("local-dir:", "star_", zoo.HUB_PREFIX)):
        return None
    try:
        return load_objective(name)
    except FileNotFoundError:
        return None
