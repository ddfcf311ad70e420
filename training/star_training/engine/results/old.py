"""Upgrades results of earlier versions, whose metrics are keyed by the displayed name, to metrics keyed by slug.

This is the only place that knows the old form: the old names, and the rules by which a name or a protocol determined
the unit and the kind of a metric.
"""

import re
from typing import Any

from star_catalog.names import slugify

_ACCURACY = ("linear", "knn", "few_shot", "label_fraction", "finetune", "detection")  # protocols of the old form
_ONLINE = {"knn1": "knn1_top1", "knn20": "knn20_top1"}  # online evaluations
# Patterns of old names and their replacements, in order. `slugify` turns the result into the slug.
_WORDS = (
    (r"^(\d+)-NN ", r"knn\1 "),
    (r"^(.*?)(\d+)-way (\d+)-shot$", r"fewshot \1\2way \3shot"),
    (r"^Fine-tuning", "finetune"),
    (r"top-1", "top1"),
    (r"mean per class", "per class"),
    (r"([\d.]+) % of (the )?labels", r"\1pct"),
    (r"^RankMe of", "RankMe"),
    (r"^mean canonical correlation of z_inv and z_eq$", "cca"),
    (r"^mean SVCCA correlation of z_inv and z_eq$", "svcca"),
    (r"^R2 by one mean", "R2 one mean"),
    (r"^R2 of target", "R2 target"),
    (r"^H@", "hit"),
    (r", (own|fitted) predictor", r", \1"),
    (r"^entropy of an image's weights", "entropy image"),
    (r"^entropy of mean weights", "entropy mean"),
    (r"^overlap of the tasks' mean weights$", "overlap"),
    (r"^same class among neighbours, by the invariant task's expert less by .*", "same class difference"),
    (r"^same class among neighbours, by the (\w+) task's expert$", r"same class \1"),
)


def upgrade(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the contents of a results.json or of an outcome of a study with metrics by slug; new ones as they are.

    Raises AttributeError, LookupError or TypeError for records that have neither form.
    """
    made = dict(content)
    if "evaluations" in made:
        made["evaluations"] = [_evaluation(record) for record in made["evaluations"]]
    if "comparisons" in made:
        made["comparisons"] = [_comparison(record) for record in made["comparisons"]]
    if "online" in made:
        made["online"] = [{_ONLINE.get(key, key): value for key, value in entry.items()} for entry in made["online"]]
    if "transfer over steps" in made:
        made["transfer over steps"] = [
            {key if key == "step" else slug(key): value for key, value in entry.items()}
            for entry in made["transfer over steps"]
        ]
    return made


def slug(name: str) -> str:
    """Returns the slug of a metric of the old form; a slug stays as it is."""
    for pattern, words in _WORDS:
        name = re.sub(pattern, words, name)
    return slugify(name)


def _evaluation(record: dict[str, Any]) -> dict[str, Any]:
    metrics = record.get("metrics", {})
    if all("name" in found for found in metrics.values()):
        return record
    upgraded = {slug(name): _metric(name, record.get("protocol", ""), found) for name, found in metrics.items()}
    return record | {"metrics": upgraded}


def _metric(name: str, protocol: str, found: dict[str, Any]) -> dict[str, Any]:
    accuracy = protocol.partition(" ")[0] in _ACCURACY  # "finetune 0.1" is of a share of the labels
    kind = "accuracy" if accuracy else protocol
    average = {}
    if match := re.match(r"(Linear|\d+-NN) (top-1|mean per class)$", name):
        displayed = f"{match[1]} accuracy"
        average = {"averaged_as": [slug(displayed), displayed]}
    return {"name": name, "unit": _unit(name, protocol), "kind": kind, **found, **average}


def _unit(name: str, protocol: str) -> str:
    share = name.endswith(("top-1", "per class", "-shot", "accuracy")) or "top-1," in name or "per class," in name
    if share or protocol == "detection":
        return "share"
    return "R2" if name.startswith("R2") else "nats" if name.startswith("entropy") else ""


def _comparison(record: dict[str, Any]) -> dict[str, Any]:
    rows = [
        row if "name" in row else row | {"metric": slug(row["metric"]), "name": row["metric"]}
        for row in record.get("rows", [])
    ]
    return record | {"rows": rows} if "rows" in record else record
