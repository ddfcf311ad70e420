"""Cards: every number is in a file beside them, and every measured value in the card."""

import ast
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from star_training.publishing import card, card_metadata, card_results, card_training, dataset_terms
from star_zoo import objectives
from twins import repeatable


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?", text))


def leaves(data: Any) -> Iterator[Any]:
    """Every value in JSON, and every key."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield key
            yield from leaves(value)
    elif isinstance(data, list):
        for value in data:
            yield from leaves(value)
    else:
        yield data


def fixed(path: Path) -> str:
    """The text in a module's strings, without the specs that numbers are formatted by."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FormattedValue):
            node.format_spec = None
    return " ".join(n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))


METHODS = [sys.modules[objectives.find(name).__module__] for name in objectives.known()]  # a card has their first lines
MODULES = (card, card_metadata, card_results, card_training, dataset_terms)
TEMPLATES = Path(card.__file__).with_name("templates").glob("*.jinja")
FIXED = numbers(
    " ".join([*(t.read_text("utf-8") for t in TEMPLATES), *(str(m.__doc__).splitlines()[0] for m in METHODS)])
)
FIXED |= {n for name in objectives.known() for paper in objectives.find(name).papers for n in numbers(paper.bibtex)}
FIXED |= {number for module in MODULES for number in numbers(fixed(Path(module.__file__)))}


def digits(value: float) -> str:
    """A number as cards print it: four digits, or 0 if its first six decimals are 0."""
    return "0" if abs(value) < 5e-7 else f"{value:.4g}"


def per_cent(value: float) -> str:
    """A share as cards print it."""
    return f"{100 * value:.1f}".replace("-0.0", "0.0") if abs(value) < 0.0005 else f"{100 * value:.1f}"


def derived(folder: Path) -> set[str]:
    """Every number that a card may contain, in every form that it may have."""
    recorded = set()
    for path in folder.glob("*.json"):
        for value in leaves(json.loads(path.read_text())):
            if isinstance(value, str):
                recorded |= numbers(value)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                for form in ("{}", "{:,}", "{:.3f}"):
                    recorded |= numbers(form.format(value))
                recorded |= numbers(f"{digits(value)} {per_cent(value)}")
                if path.name == "results.json":  # hours, minutes, gigabytes
                    recorded |= numbers(f"{value / 3600:.1f} {value / 60:.1f} {value / 1e9:.2f}")
    model = timm.create_model(f"local-dir:{folder}", device="meta")
    return recorded | {f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}"}


def body(text: str) -> str:
    return text.split("\n---\n", 1)[1]


def test_every_number_in_a_card_is_in_a_file(finished: Path, converted: Path, others: dict[str, Path]):
    shown = set()
    for folder in (finished, converted, *others.values()):
        found = numbers(body(card.render(folder, "hf-hub:me/name"))) - FIXED
        assert found - derived(folder) == set()
        shown |= found
    assert len(shown) > 30, len(shown)  # of all cards, because two durations may be equal by chance


fraction = st.floats(0, 1, width=32)
count = st.integers(0, 10**9)
metric = st.one_of(
    st.fixed_dictionaries({"value": st.floats(-1e6, 1e6), "low": st.none(), "high": st.none()}),
    st.fixed_dictionaries({"value": fraction, "low": fraction, "high": fraction}),
)
record = st.fixed_dictionaries(
    {
        "protocol": st.sampled_from(("knn", "linear")),
        "data": st.sampled_from(("stl10", "birds")),
        "seed": count,
        "images": st.dictionaries(st.sampled_from(("train", "test")), count, max_size=2),
        "metrics": st.dictionaries(st.sampled_from(("20-NN top-1", "linear", "R2")), metric, max_size=3),
    }
)
pair = st.lists(st.fixed_dictionaries({"step": count, "epoch": fraction, "knn20": fraction}), min_size=2, max_size=2)
cost = st.fixed_dictionaries(
    {
        "steps": count, "images": count, "seconds": st.floats(0, 1e7), "processes": count,
        "device": st.just("cuda"), "versions": st.just({"torch": "2.7.1", "timm": "1.0.31"}),
    }
)  # fmt: skip
comparison = st.fixed_dictionaries(
    {
        "other": st.sampled_from(("pixels", "star_resnet18.stl10")), "seed": count, "interval": st.just("over images"),
        "protocols": st.just(["linear", "knn"]),
        "data_fingerprints": st.dictionaries(st.sampled_from(("stl10", "birds")), st.just({"test": "f"}), min_size=1),
        "rows": st.lists(
            st.fixed_dictionaries(
                {
                    "metric": st.just("20-NN top-1"), "data": st.sampled_from(("stl10", "mean of all")),
                    "first": fraction, "second": fraction, "difference": metric,
                }
            ),
            max_size=3,
        ),
    }
)  # fmt: skip
measured = {
    "evaluations": st.lists(record, max_size=3),
    "comparisons": st.lists(comparison, max_size=2),
    "training": cost,
    "online": pair,
}


@repeatable
@given(st.fixed_dictionaries({}, optional=measured))
def test_card_shows_every_measured_value_and_nothing_else(others: dict[str, Path], results: dict[str, Any]):
    folder = others["bare"]
    (folder / "results.json").write_text(json.dumps(results))
    try:
        text = card.render(folder, "hf-hub:me/name")
        shown = body(text)
        assert numbers(shown) - FIXED - derived(folder) == set()
    finally:
        (folder / "results.json").unlink()
    for found in results.get("evaluations", []):
        for name, value in found["metrics"].items():
            share = name == "20-NN top-1"
            start = f"| {found['protocol']} | {name}{', %' * share} | {found['data']} | "
            rows = [line for line in shown.splitlines() if line.startswith(start)]  # several if measured twice
            cell = f"| {(per_cent if share else digits)(value['value'])} "
            assert any(cell in row and row.endswith(" |") for row in rows), rows
    for found in results.get("comparisons", []):
        for row in found["rows"]:
            cells = row["metric"], row["data"], *(per_cent(row[which]) for which in ("first", "second"))
            assert f"| {' | '.join(cells)} | {per_cent(row['difference']['value'])}" in shown
        assert f"star-zoo compare hf-hub:me/name {found['other']} --data" in shown
    values = {m["value"] for r in results.get("evaluations", []) for m in r["metrics"].values()}
    index = ModelCard(text).data.eval_results or []
    assert {result.metric_value for result in index} == values
    assert ("Nothing was measured." in shown) == (not values and not any(map(results.get, ("online", "comparisons"))))


def test_a_changed_value_is_a_changed_card(finished: Path, tmp_path: Path):
    folder = Path(shutil.copytree(finished, tmp_path / "folder"))
    before, path = card.render(folder), folder / "results.json"
    results = json.loads(path.read_text())
    unchanged = []

    def walk(data: Any) -> None:
        for key in data if isinstance(data, dict) else range(len(data)):
            value = data[key]
            if isinstance(value, dict | list):
                walk(value)
            elif isinstance(value, int | float):
                data[key] = 2 * value + 1
                path.write_text(json.dumps(results))
                if card.render(folder) == before:
                    unchanged.append((key, value))
                data[key] = value

    walk(results)
    when = [(key, found[key]) for found in results["online"] for key in ("step", "epoch")]
    assert sorted(unchanged) == sorted([*when, ("epochs", 77), ("seconds", 55.5), ("threads", 1)])  # of an evaluation
