"""The page about continued pretraining states the numbers of its result files, and its verdict follows from them."""

import json
import re
from pathlib import Path

from pages import CARDS, remade, words
from star_training import studies
from star_training.reports import tables

PAGE = CARDS / "continued_small" / "README.md"
MEASURED = (
    ("Linear accuracy, %", "mean of transfer sets"),
    ("20-NN top-1, %", "mean of transfer sets"),
    ("5-way 5-shot, %", "tinyimagenet_novel100"),
    ("R2, pair, features", "caltech101"),
)


def ends(cell: str) -> tuple[float, float]:
    """The interval of "1.5 [0.5, 2.6]"."""
    low, high = re.findall(r"-?[0-9.]+", cell.partition("[")[2])
    return float(low), float(high)


def shown(differences: tables.Table) -> str:
    """The page's table: a row for each pair of methods, a column for each measurement."""
    found = {(row[0], row[1]): dict(zip(differences.head, row, strict=True)) for row in differences.rows}
    pairs = differences.head[2:]
    rows = [[pair, *(found[place][pair] for place in MEASURED)] for pair in pairs]
    return tables.markdown(tables.Table("", ["pair", *(f"{metric} ({data})" for metric, data in MEASURED)], rows))


def test_the_verdict_is_that_of_the_results(tmp_path: Path) -> None:
    study = studies.find("continued_small")
    _, _, differences = remade(study, tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    assert shown(differences) in text, shown(differences)
    found = {(row[0], row[1]): dict(zip(differences.head, row, strict=True)) for row in differences.rows}
    linear, nearest, few, r2 = (found[place] for place in MEASURED)
    signs, verdict = found["Linear accuracy, %", "signdigits"], " ".join(text.partition("## Verdict")[2].split())

    def of(row: dict[str, str], names: tuple[str, ...] = ("simclr", "equimod", "star")) -> list[str]:
        return [row[f"{name} - start"] for name in names]

    def lost(row: dict[str, str], *names: str) -> str:
        values = [cell.split()[0].removeprefix("-") for cell in (of(row, names) if names else of(row))]
        return f"{', '.join(values[:-1])} and {values[-1]}"

    assert f"changes by {of(linear)[0]} (SimCLR), {of(linear)[1]} (EquiMod) and {of(linear)[2]} (STAR)" in verdict
    assert ends(of(linear)[0])[0] < 0 < ends(of(linear)[0])[1] and ends(of(linear)[2])[0] < 0 < ends(of(linear)[2])[1]
    assert f"20-NN accuracy falls by {lost(nearest)} points" in verdict
    assert all(ends(cell)[1] < 0 for row in (nearest, few) for cell in of(row))
    assert f"gain in linear accuracy: {of(signs)[0]}, {of(signs)[1]} and {of(signs)[2]}" in verdict
    assert all(ends(cell)[0] > 0 for cell in of(signs))
    assert f"five-shot accuracy falls by {lost(few)} points" in verdict
    assert all(ends(cell)[0] < 0 < ends(cell)[1] for cell in of(r2))
    norms = [row["norms - start"].removeprefix("-") for row in (linear, nearest, few)]
    assert f"costs {norms[0]} points of linear, {norms[1]} of 20-NN and {norms[2]} of five-shot accuracy" in verdict
    high = ("simclr_high", "star_high")
    assert f"{lost(linear, *high)} points of linear and {lost(nearest, *high)} of 20-NN accuracy" in verdict
    assert f"hand signs gain {lost(signs, *high)}" in verdict
    for row in (linear, nearest, r2):
        assert ends(row["star - equimod"])[0] < 0 < ends(row["star - equimod"])[1]
    assert f"five-shot accuracy, {few['star - equimod']}" in verdict and ends(few["star - equimod"])[1] < 0


def test_the_training_times_are_those_of_the_runs() -> None:
    runs = {path.stem: json.loads(path.read_text()) for path in (PAGE.parent / "results").glob("*.json")}
    minutes = {name: run["training"]["seconds"] / 60 for name, run in runs.items() if run["training"]}
    for name in ("simclr", "equimod", "star"):
        own = [minutes[f"{name}-{seed}"] for seed in range(3)]
        assert f"{min(own):.0f} to {max(own):.0f} minutes under `{name}`" in words(PAGE)
    evaluated = [sum(record["seconds"] for record in run["evaluations"]) / 60 for run in runs.values()]
    assert f"{min(evaluated):.0f} to {max(evaluated):.0f} minutes of evaluation" in words(PAGE)
    assert f"`star_high` took {minutes['star_high-0']:.0f} minutes" in words(PAGE)
