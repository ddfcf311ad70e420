"""The card of a saved model: its README.md, generated from the files beside it.

The text is in `templates`; the numbers come from config.json, recipe.json, finetune.json and results.json. A line whose
number none of them holds is omitted. Only the equivariance error of star-zoo's own networks is measured here.
"""

import re
from pathlib import Path
from typing import Any

import timm
import torch
from markupsafe import Markup

from star_catalog.files import sweep, write_text
from star_catalog.printing import printable
from star_catalog.reading import json_object, refusing
from star_catalog.writing import going_on
from star_zoo import hub, objectives, own_networks, star_backbones, wrapped_model
from star_zoo.groups import equivariance_error

from ..engine.results import read as read_results
from ..engine.saving.best import FOLDER
from ..evaluation.record import Record
from ..messages import RESUME
from ..recipes.folder import folder as folder_recipe
from . import card_metadata, card_method, dataset_terms, markdown
from .card_results import measured, seen
from .card_training import Made, chain, changes, described

_CLASSES_SHOWN = 20


def write(folder: Path, name: str | None = None) -> Path:
    """Writes the card of a saved folder and returns its path."""
    write_text(folder / "README.md", render(folder, name))
    return folder / "README.md"


def write_after_training(run: Path, changed: bool) -> None:
    """Writes the cards of a run's exports if they have changed, or lack one because the run was killed before its card.

    Raises NotWritten where one can't be written.
    """
    for export in (run / "export", run / FOLDER):
        if not export.is_dir() or (not changed and (export / "README.md").is_file()):
            continue
        sweep(export, "README.md")
        with going_on(f"{RESUME} to write its card"):
            write(export)
        if not changed:
            print(printable(f"wrote the card that {export} lacked"))


def write_of_stopped(run: Path) -> None:
    """Writes the card of a stopped run's best weights, if there are any without a card."""
    best = run / FOLDER
    if best.is_dir() and not (best / "README.md").is_file():
        write(best)


def render(folder: Path, name: str | None = None) -> str:
    """Returns the card of a saved folder in Markdown; its snippets load `name`, or the folder itself if None.

    `name` is e.g. hf-hub:OWNER/NAME, or a tag of the zoo. Raises ValueError or OSError if the folder's files can't be
    read.
    """
    with refusing(f"cannot make a card from the files in {folder}"):
        return _render(folder, name or f"local-dir:{folder.as_posix()}")


def _render(folder: Path, name: str) -> str:
    config, recipe, finetune, heads = (
        _read(folder / f"{file}.json") for file in ("config", "recipe", "finetune", "heads")
    )
    results = read_results(folder / "results.json")
    records = [Record.from_dict(found) for found in results.get("evaluations", [])]
    model: Any = hub.create(str(folder), pretrained=False, device="meta")
    made = chain(Made(recipe, finetune, results))
    methods = card_method.of(made, heads)
    data_sets = list(dict.fromkeys((step.kind, dataset_terms.of(step.source)) for step in made if step.source))
    own, licence = star_backbones.is_own(config["architecture"]), config["pretrained_cfg"].get("license")
    users = own_networks.is_users(config["architecture"])
    title = _title(config, recipe, finetune, heads, name)
    metadata = {"title": title, "own": own or users, "licence": licence, "is_classifier": bool(config["num_classes"])}
    metadata |= {"tags": methods.tags}
    text = markdown.render(
        "card.md.jinja",
        front_matter=Markup(card_metadata.front_matter(**metadata, data_sets=data_sets, records=records)),
        title=title,
        name=name,
        source=name.removeprefix("local-dir:"),
        registered=_is_tag(name),
        own=own,
        registered_by_user=config["architecture"] if users else None,
        module=own_networks.module_of_saved(folder),
        has_maps=hasattr(model, "feature_info"),
        network=_network(config),
        images=data_sets[-1][1] if made and made[-1].source else None,
        start=made[-1].recipe.get("init_from") if made else None,
        classes=config["num_classes"],
        class_names=_class_names(config),
        parameters=f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}",
        features=config["num_features"],
        equivariance=_equivariance(folder, own),
        channels=config["pretrained_cfg"]["input_size"][0],
        size=config["pretrained_cfg"]["input_size"][-1],
        heads=_heads(heads, recipe, config),
        methods=methods,
        citation=Markup("\n\n".join(paper.bibtex for paper in methods.papers)),
        results=measured(records, results, name),
        seen=seen(made, records, results),
        training=described(made),
        figures=sorted(path.name for path in folder.glob("*.png")),
        licence=licence,
        released=results.get("released"),
        pretrained=results.get("pretrained", {}),
        data_sets=data_sets,
    )
    return re.sub(r"\n{3,}", "\n\n", text)  # empty parts leave no gap


def _is_tag(name: str) -> bool:
    return name.startswith("star_")


def _network(config: dict[str, Any]) -> str:
    architecture = config["architecture"]
    if own_networks.is_users(architecture):
        return f"{architecture}, a network that is not part of timm"
    if architecture != wrapped_model.NAME:
        return f"{'star-zoo' if star_backbones.is_own(architecture) else 'timm'}'s {architecture}"
    described = config["model_args"]
    parts = ({"architecture": one["model_name"], "model_args": one} for one in described["backbones"])
    return f"star-zoo's {described['wrapper']} of {' and '.join(map(_network, parts))}"


def _class_names(config: dict[str, Any]) -> str:
    """Returns the names of a classifier's classes, shortened; empty if it has none."""
    names = [str(found) for found in config.get("label_names", ())]
    more = f" and {len(names) - _CLASSES_SHOWN} more" if len(names) > _CLASSES_SHOWN else ""
    return ", ".join(names[:_CLASSES_SHOWN]) + more


def _equivariance(folder: Path, own: bool) -> dict[str, str] | None:
    """Returns the group and the equivariance error of the saved weights; None for networks without a group."""
    if not own:
        return None
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    if not hasattr(model, "regular_features"):
        return None
    image = torch.rand(1, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    error = equivariance_error(model.group, model.regular_features, image)
    return {"group": model.group.name.upper(), "error": f"{error:.1e}"}


def _read(path: Path) -> dict[str, Any]:
    return json_object(path, path.name) if path.exists() else {}


def _title(
    config: dict[str, Any], recipe: dict[str, Any], finetune: dict[str, Any], heads: dict[str, Any], name: str
) -> str:
    """Returns the name of a repository or a tag; for a folder, network or recipe with its task or its objective."""
    if name.startswith("hf-hub:") or _is_tag(name):
        return name.rpartition("/")[2].partition("@")[0]
    if config["num_classes"]:
        data = f"{dataset_terms.of(finetune['data']['source']).title}-" if finetune else ""
        return f"{config['architecture']}-{data}classifier"
    return f"{recipe.get('name', config['architecture'])}-{heads.get('objective', 'backbone')}"


def _heads(heads: dict[str, Any], recipe: dict[str, Any], config: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the number of experts, the objective, and the settings with which the recipe `folder` keeps the heads."""
    if not heads:
        return None
    objective, start = heads["objective"], folder_recipe()
    of_recipe = {"backbone_args": {}, "backbone_module": ""}
    own = {"objective_args": heads["settings"]} | {name: recipe.get(name, usual) for name, usual in of_recipe.items()}
    usual = {"objective_args": objectives.settings(objective) | start.objective_args} | of_recipe
    backbone = str(recipe.get("backbone", config["architecture"]))
    return {
        "experts": heads["settings"].get("num_experts"),
        "objective": objective,
        "settings": [f"backbone={backbone}", *changes(own, usual, "")],
    }
