"""The card of a saved model: its README.md, generated from the files beside it.

The text is in template.md and here; the numbers come from config.json, recipe.json and results.json. A line whose
number none of them holds is omitted. Only the equivariance error of star-zoo's own networks is measured here.
"""

import json
import re
import string
import sys
import textwrap
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import EvalResult, ModelCardData

from star_catalog.files import sweep, write_text
from star_zoo import hub, objectives, star_backbones, wrapped_model
from star_zoo.groups import equivariance_error

from .. import recipes
from ..engine.old_results import upgrade
from ..evaluation.record import Record
from ..settings.base import CHOSEN
from ..settings.common import AUTO, precision_name
from . import dataset_terms
from .card_results import measured

TEMPLATE = Path(__file__).with_name("template.md")
TAGS = ["image-feature-extraction", "timm", "transformers", "self-supervised-learning", "equivariance", "star-zoo"]


def write(folder: Path, name: str | None = None) -> Path:
    """Writes the card of a saved folder and returns its path."""
    write_text(folder / "README.md", render(folder, name))
    return folder / "README.md"


def write_after_training(export: Path, changed: bool) -> None:
    """Writes the card of a run's export that has changed, or that has none because a run was killed before its card.

    Raises OSError where it can't be written.
    """
    if not changed and (export / "README.md").is_file():
        return
    sweep(export, "README.md")
    try:
        write(export)
    except OSError as error:
        raise OSError(f"could not write {export}: {error}; make room, then --resume writes its card") from error
    if not changed:
        print(f"wrote the card that {export} lacked")


def render(folder: Path, name: str | None = None) -> str:
    """Returns the card of a saved folder in Markdown; its snippets load `name`, or the folder itself if None.

    `name` is e.g. hf-hub:OWNER/NAME, or a tag of the zoo. Raises ValueError or OSError if the folder's files can't be
    read.
    """
    try:
        return _render(folder, name or f"local-dir:{folder.as_posix()}")
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"cannot make a card from the files in {folder}: {type(error).__name__}, {reason}") from error


def _render(folder: Path, name: str) -> str:
    config, recipe, results, heads = (
        _read(folder / f"{file}.json") for file in ("config", "recipe", "results", "heads")
    )
    results = upgrade(results)
    records = [Record.from_dict(found) for found in results.get("evaluations", [])]
    model: Any = hub.create(str(folder), pretrained=False, device="meta")
    known = name.startswith("hf-hub:") or _is_tag(name)
    title = name.rpartition("/")[2].partition("@")[0] if known else _title(config, recipe, heads)
    data = dataset_terms.of(recipe["data"]["source"]) if recipe else None
    text = string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        front_matter=_front_matter(title, config, data, records),
        title=title,
        name=name,
        loader=_loader(config, name),
        also=", star_zoo" if _is_tag(name) or _is_own(config) else "",
        about=_about(config, heads, data),
        architecture=_architecture(config),
        classifier=f"with a classifier of {classes} classes" if (classes := config["num_classes"]) else "no classifier",
        parameters=f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}",
        features=config["num_features"],
        equivariance=_equivariance(folder, config),
        size=config["pretrained_cfg"]["input_size"][-1],
        heads=_heads(heads, recipe, name),
        results=measured(records, results, name),
        training=_training(recipe, results),
        figures=_figures(folder),
        licence=_licence(config, data, results),
    )
    return re.sub(r"\n{3,}", "\n\n", text)  # empty parts leave no gap


def _is_tag(name: str) -> bool:
    return name.startswith("star_")


def _is_own(config: dict[str, Any]) -> bool:
    return star_backbones.is_own(config["architecture"])


def _architecture(config: dict[str, Any]) -> str:
    if config["architecture"] != wrapped_model.NAME:
        return f"{'star-zoo' if _is_own(config) else 'timm'}'s {config['architecture']}"
    described = config["model_args"]
    parts = ({"architecture": one["model_name"], "model_args": one} for one in described["backbones"])
    return f"star-zoo's {described['wrapper']} of {' and '.join(map(_architecture, parts))}"


def _loader(config: dict[str, Any], name: str) -> str:
    if _is_own(config):
        return "timm, after importing star_zoo, which has the architecture; timm alone can't load this model"
    return "timm, after importing star_zoo, which registers the tag" if _is_tag(name) else "timm alone"


def _equivariance(folder: Path, config: dict[str, Any]) -> str:
    """Returns the line with the equivariance error of the saved weights; empty for networks without a group."""
    if not _is_own(config):
        return ""
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    if not hasattr(model, "regular_features"):
        return ""
    size = config["pretrained_cfg"]["input_size"][-1]
    image = torch.rand(1, model.in_chans, size, size, generator=torch.Generator().manual_seed(0))
    error = equivariance_error(model.group, model.regular_features, image)
    return (
        f"\n- **Equivariance:** under {model.group.name.upper()}, by construction; the relative error of the features "
        f"of a random image is {error:.1e} in float32"
    )


def _read(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not isinstance(found, dict):
        raise TypeError(f"{path.name} is not a JSON object")
    return found


def _title(config: dict[str, Any], recipe: dict[str, Any], heads: dict[str, Any]) -> str:
    return f"{recipe.get('name', config['architecture'])}-{heads.get('objective', 'backbone')}"


def _front_matter(title: str, config: dict[str, Any], data: Any, records: list[Record]) -> str:
    """Returns the YAML block; the Hub groups results by data set, so each metric carries its protocol as its type."""
    licence = config["pretrained_cfg"].get("license")
    evaluations = [
        EvalResult(
            task_type="image-feature-extraction",
            dataset_type=record.data,
            dataset_name=record.data,
            metric_type=record.protocol,
            metric_name=metric.name,
            metric_value=metric.value,
        )
        for record in records
        for metric in record.metrics.values()
        if metric.is_accuracy
    ]
    card = ModelCardData(
        library_name="star-zoo" if _is_own(config) else "timm",
        pipeline_tag="image-feature-extraction",
        tags=[tag for tag in TAGS if tag != "transformers" or not _is_own(config)],  # it uses timm alone
        license=licence or "other",
        license_name=None if licence else "not-stated",
        datasets=[data.hub_id] if data and data.hub_id else None,
        model_name=title,
        eval_results=evaluations or None,
    )
    return card.to_yaml().strip()


def _about(config: dict[str, Any], heads: dict[str, Any], data: Any) -> str:
    network = _architecture(config)
    if not heads:
        return network + (f", pretrained on {data.title}." if data else ".")
    method = (sys.modules[objectives.find(heads["objective"]).__module__].__doc__ or "").partition("\n")[0]
    return f"{network}, pretrained without labels{f' on {data.title}' if data else ''}. {method}"


def _heads(heads: dict[str, Any], recipe: dict[str, Any], name: str) -> str:
    if not heads:
        return "This model was saved without heads."
    experts = heads["settings"].get("num_experts")
    bank = f" ({experts} experts)" if experts else ""
    source, backbone = name.removeprefix("local-dir:"), recipe.get("backbone", "NAME")
    return textwrap.dedent(f'''\
        The heads{bank} and the augmentation policy are stored beside the backbone. Use them to compute the training
        loss or the embeddings, or to continue pretraining with star-zoo:

        ```python
        import star_zoo, timm, torch

        backbone = timm.create_model("{name}", pretrained=True)
        objective = star_zoo.load_objective("{source}")
        fields = objective.policy.fields  # the augmentation parameters of a view, the input of the heads
        features = backbone(torch.rand(4, 3, *backbone.pretrained_cfg["input_size"][1:]))
        embeddings = objective.eval().embed(features)
        ```

        ```bash
        star-zoo pretrain folder --data path/to/images --init-from {source} --set backbone={backbone}
        ```''')


def _training(recipe: dict[str, Any], results: dict[str, Any]) -> str:
    """Returns recipe, cost and command of the run, after those of the runs that it started from."""
    lines = [_run(*made) for made in _chain(recipe, results)]
    if any("```" in line for line in lines):
        lines.append("In the commands, replace the names of images and of earlier runs by their paths.")
    return "\n\n".join(line for line in lines if line) or "Not recorded."


def _chain(recipe: dict[str, Any], results: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any], str]]:
    """Returns recipe and results of every run, oldest first, with the file that holds the recipe."""
    made, file = [], "recipe.json"
    while recipe or results:
        made.append((recipe, results, file))
        results = results.get("start") or {}
        recipe, file = results.get("recipe") or {}, "results.json"
    return made[::-1]


def _run(recipe: dict[str, Any], results: dict[str, Any], file: str) -> str:
    lines = []
    if recipe:
        setting = f"{recipe['epochs']} epochs, batches of {recipe['batch_size']}, {recipe['optimizer']['name']}"
        if (precision := recipe.get("precision", AUTO)) != AUTO:
            setting += f", {precision_name(precision)}"
        begun = f" It starts from `{recipe['init_from']}`." if recipe.get("init_from") else ""
        lines.append(f"Recipe `{recipe['name']}`: {setting}; `{file}` has all settings.{begun}")
    if cost := results.get("training"):
        took = f"{_duration(cost['seconds'])} on {cost['processes']} {cost['device'].upper()} process(es)"
        if peak := cost.get("peak_memory"):
            took += f", peak memory {peak / 1e9:.2f} GB"
        if (chosen := cost.get("precision", {})).get("asked") == AUTO:
            took += f", precision chosen by the run ({chosen['why']})"
        versions = ", ".join(f"{name} {version}" for name, version in cost["versions"].items())
        lines.append(f"{cost['images']:,} images in {cost['steps']:,} steps, {took}; {versions}.")
    if command := _command(recipe):
        lines.append(f"```bash\n{command}\n```")
    if released := results.get("released"):
        lines.append(f"Converted from the authors' released `{released['file']}` (sha256 `{released['sha256']}`).")
    return "\n\n".join(lines)


def _command(recipe: dict[str, Any]) -> str:
    """Returns the command that runs this recipe; empty if it is not an unchanged recipe of the package."""
    if recipe.get("name") not in recipes.known() or recipe.get("objective") not in objectives.known():
        return ""
    ours = recipes.find(recipe["name"]).with_objective(recipe["objective"]).to_dict()
    source, start = recipe["data"]["source"], recipe.get("init_from")
    given = {"init_from": start, "run": recipe.get("run"), "data": {**ours["data"], "source": source}}
    chosen = {name: recipe.get(name) for name in CHOSEN if ours[name] == AUTO}
    if recipe != ours | given | chosen:
        return ""
    kept = {name: value for name, value in chosen.items() if value not in (AUTO, True)}  # true is what "auto" becomes
    sets = "".join(f" --set {name}={str(value).lower()}" for name, value in kept.items())
    begin = f" --init-from {start}" if start else ""
    return f"star-zoo pretrain {recipe['name']} --objective {recipe['objective']} --data {source}{begin}{sets}"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 7200 else f"{seconds / 60:.1f} minutes"


def _figures(folder: Path) -> str:
    pictures = sorted(p.name for p in folder.glob("*.png"))
    return "\n".join(f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in pictures)


def _licence(config: dict[str, Any], data: Any, results: dict[str, Any]) -> str:
    licence = config["pretrained_cfg"].get("license")
    if licence:
        weights = f"The weights are published under {licence}."
    elif results.get("released"):
        weights = "The weights are the authors' own; their repository states no licence."
    else:
        weights = "These weights were published without a licence."
    models = [_model(role, model) for role, model in results.get("pretrained", {}).items()]
    return " ".join((weights, *models)) + (f" The pretraining images are {data.title}. {data.terms}" if data else "")


def _model(role: str, model: dict[str, Any]) -> str:
    """Returns a sentence about a pretrained model that the training read, e.g. the teacher of a distillation."""
    terms = f"is published under {model['license']}" if model["license"] else "states no licence"
    return f"The {role} `{model['name']}` (weights `{model['fingerprint']}`) {terms}."
