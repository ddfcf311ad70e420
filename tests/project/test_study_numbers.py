"""The pages' numbers about studies are those of their result files, table by table."""

import itertools
import json
from pathlib import Path

import pytest

from pages import CARDS, README, remade, words
from star_training import studies
from star_training.pretraining.module import build_backbone
from star_training.reports import tables
from star_training.settings.base import override
from star_training.studies import outcome
from star_training.studies import run as reproduction

COMPARED = CARDS / "cifar10_small" / "README.md"
README_METHODS = {
    "simclr": "SimCLR",
    "equimod": "EquiMod",
    "equimod_wide": "EquiMod, heads as large as STAR's",
    "star_8": "STAR, 8 experts",
}
README_METRICS = {
    "Linear accuracy, % (cifar10)": "Linear, CIFAR-10, %",
    "Linear accuracy, % (mean of transfer sets)": "Linear, transfer sets, %",
    "20-NN top-1, % (mean of transfer sets)": "20-NN, transfer sets, %",
    "R2, pair, features (cifar10)": "R2",
}


def short_in_the_readme(short: tables.Table) -> str:
    """README's table of four methods by four metrics, taken from the study's table in short."""
    columns = [short.head.index(name) for name in README_METRICS]
    rows = {row[0]: [row[column] for column in columns] for row in short.rows}
    made = [[name, *rows[method]] for method, name in README_METHODS.items()]
    return tables.markdown(tables.Table("", ["method", *README_METRICS.values()], made))


def test_the_study_is_that_of_its_results(tmp_path: Path) -> None:
    short, _, _, claims = remade(studies.find("cifar10_small"), tmp_path)
    assert short_in_the_readme(short) in README.read_text(encoding="utf-8")
    assert tables.markdown(claims) in COMPARED.read_text(encoding="utf-8")


def test_the_cost_of_the_study_is_that_of_its_runs() -> None:
    paths = (COMPARED.parent / "results").glob("*.json")
    seconds = sum(json.loads(path.read_text(encoding="utf-8"))["training"]["seconds"] for path in paths)
    assert f"`cifar10_small` took {seconds / 3600:.1f} hours of one core" in words(COMPARED)


def test_the_table_of_all_methods_is_that_of_its_results(tmp_path: Path) -> None:
    remade(studies.find("methods_small").in_haste(), tmp_path)


def test_the_tables_of_equivariant_backbones_are_those_of_their_results(tmp_path: Path) -> None:
    found = {table.title: table for table in remade(studies.find("symmetry_small").in_haste(), tmp_path)}
    text = (CARDS / "symmetry_small" / "README.md").read_text(encoding="utf-8")
    assert tables.markdown(found["differences by seed"]) in text
    short = found["in short"]
    means = {row[0]: [float(cell.split()[0]) for cell in row[2:]] for row in short.rows}
    for plain, equivariant in (("simclr", "simclr_c4"), ("star", "star_c4")):
        for k in range(2):  # both classifiers; the columns are upright, upright, C4 mean, C4 mean, ...
            assert means[plain][2 + k] < 2 / 3 * means[plain][k]  # loses more than a third
            gain = means[equivariant][2 + k] - means[plain][2 + k]
            assert 0 < gain < means[plain][k] - means[equivariant][k]


def test_equivariant_backbones_are_as_large_as_plain_ones() -> None:
    study = studies.find("symmetry_small")
    recipes = {method.name: override(study.recipe, method.changes) for method in study.methods}
    built = {name: build_backbone(recipes[name]) for name in ("simclr", "simclr_c4")}
    plain, turned = (f"{sum(p.numel() for p in one.parameters()):,}" for one in built.values())
    widths = [one.num_features for one in built.values()]
    page = words(CARDS / "symmetry_small" / "README.md")
    assert f"{turned} weights, the plain one {plain}" in page
    assert f"{widths[1]} features, the plain one {widths[0]}" in page


def four_times(out: Path) -> str:
    """The difference of STAR's and EquiMod's canonical correlation in `cifar10_small`, with four times the steps.

    There EquiMod's is lower than in `why_correlated`, and STAR's about the same.
    """
    found = {}
    for name in ("cifar10_small", "why_correlated"):
        tables_of = {table.title: table for table in remade(studies.find(name), out / name)}
        for title in ("methods: means over seeds", "differences by seed"):
            head = tables_of[title].head
            (row,) = (row for row in tables_of[title].rows if row[0] == "mean canonical correlation of z_inv and z_eq")
            found |= {(name, column): value for column, value in zip(head, row, strict=True)}
    long, short = (
        [float(found[name, method].split()[0]) for method in ("equimod", "star_8")]
        for name in ("cifar10_small", "why_correlated")
    )
    assert short[0] - long[0] > 0.04 and abs(short[1] - long[1]) < 0.015
    steps = [
        json.loads((CARDS / name / "results/star_8-0.json").read_text())["training"]["steps"]
        for name in ("cifar10_small", "why_correlated")
    ]
    assert round(steps[0] / steps[1]) == 4
    return found["cifar10_small", "star_8 - equimod"]


def ends(cell: str) -> list[float]:
    """The ends of the interval in a cell such as "0.047 [0.035, 0.059]"."""
    return [float(end) for end in cell.partition("[")[2].strip("]").split(", ")]


WHY = CARDS / "why_correlated" / "README.md"


def test_the_reasons_for_correlated_embeddings_are_those_of_the_results(tmp_path: Path) -> None:
    study = studies.find("why_correlated")
    short, _, differences = remade(study, tmp_path)
    page, columns = words(WHY), differences.head
    table = tables.markdown(differences).splitlines()
    shown = [line for line in WHY.read_text(encoding="utf-8").splitlines() if line in table[2:]]
    assert len(shown) == 10 and "\n".join([*table[:2], shown[0]]) in WHY.read_text(encoding="utf-8")
    by_metric = {row[0]: dict(zip(columns, row, strict=True)) for row in differences.rows}
    cca, knn = by_metric["mean canonical correlation of z_inv and z_eq"], by_metric["20-NN top-1, %"]
    assert f"is higher than EquiMod's by {cca['star_8 - equimod']}" in page
    assert f"`split_6_2`, add {cca['split_6_2 - equimod']} to EquiMod's correlation, sharing adds" in page
    assert f"sharing adds {cca['star_8 - split_6_2']} to that" in page
    assert f"{knn['split_6_2 - equimod']} points by averaging, and {knn['star_8 - split_6_2']} by sharing" in page
    ranks = [by_metric["RankMe of z_inv"][pair].split()[0] for pair in ("split_6_2 - equimod", "star_8 - split_6_2")]
    grows, more = (f"{float(rank):.1f}" for rank in ranks)
    assert f"RankMe of z_inv grows by {grows} from EquiMod to `split_6_2`, and by {more} from there to STAR" in page
    narrow = [cca[f"star_8_o{o} - equimod_o{o}"] for o in (64, 32)]
    assert f"the difference of STAR and EquiMod is {narrow[0]} (64) and {narrow[1]} (32)" in page
    in_short = {row[0]: dict(zip(short.head, row, strict=True)) for row in short.rows}
    mean, floor, svcca = short.head[2:5]
    floors = [in_short[name][floor].split()[0] for name in ("equimod", "equimod_o64", "equimod_o32")]
    assert f"features, {floors[0]}; with 64 and 32 of 256 it is above theirs, {floors[1]} and {floors[2]}, and" in page
    means, all_floors = ({row[0]: float(row[k].split()[0]) for row in short.rows} for k in (2, 3))
    assert f"with 128 of 512 above {in_short['equimod_full'][floor].split()[0]}. Values" in page
    above = {name for name in means if means[name] > all_floors[name]}
    assert above == {name for name in means if name.endswith(("_o32", "_o64", "_full"))}
    full = [in_short[name][svcca] for name in ("star_8_full", "equimod_full")]
    assert (
        f"It is {cca['star_8_full - equimod_full']} with 512 features, and SVCCA reverses the order, {full[0]}" in page
    )
    assert f"against EquiMod's {full[1]}, both of one seed" in page and float(full[0]) < float(full[1])
    linear = in_short["equimod_linear"]
    assert f"lowest, {linear[mean].split()[0]}, and its SVCCA the highest, {linear[svcca].split()[0]}. Its" in page
    of_width = {name: float(row[mean].split()[0]) for name, row in in_short.items() if not name.endswith(("32", "64"))}
    assert min(of_width, key=of_width.__getitem__) == "equimod_linear"
    certain = {
        row["metric"]: ends(row["star_8 - equimod"])
        for row in by_metric.values()
        if not row["metric"].startswith(("overlap", "20-NN", "R2, pair"))
    }
    assert f"After four times the steps, in bfloat16, it is {four_times(tmp_path)} in [cifar10_small]" in page
    assert len(certain) > 40 and not any(high < 0 for _, high in certain.values())
    for place in ("", ", random views"):
        statistics_of = (f"SVCCA 0.9{place}", f"R2 of z_eq from z_inv{place}", f"R2 of z_inv from z_eq{place}")
        assert all(certain[name][0] > 0 for name in statistics_of)
    rank = short.head.index("RankMe of z_eq (cifar10)")
    ranks_eq = {row[0]: float(row[rank].split()[0]) for row in short.rows}
    assert abs(ranks_eq["equimod_linear"] / ranks_eq["equimod"] - 0.5) < 0.05  # half as many dimensions


BACKBONES = CARDS / "backbones_small" / "README.md"
BACKBONE_NAMES = {"": "ResNet, batch norm", "_gn": "ResNet, group norm", "_convnext": "ConvNeXt", "_vit": "ViT"}
GAINS = (
    ("Linear accuracy, %", "mean of transfer sets"),
    ("20-NN top-1, %", "mean of transfer sets"),
    ("20-NN top-1, %", "cifar10"),
    ("R2, pair, features", "cifar10"),
)


def gains(differences: tables.Table, better: str, worse: str) -> str:
    """The table of a page: the differences of two objectives under each backbone."""
    numbers = {(row[0], row[1]): dict(zip(differences.head, row, strict=True)) for row in differences.rows}
    rows = [
        [name, *(numbers[gain][f"{better}{suffix} - {worse}{suffix}"] for gain in GAINS)]
        for suffix, name in BACKBONE_NAMES.items()
    ]
    head = [f"{better} - {worse}", *(f"{metric} ({data})" for metric, data in GAINS)]
    return tables.markdown(tables.Table("", head, rows))


def test_the_gains_under_other_backbones_are_those_of_the_results(tmp_path: Path) -> None:
    _, _, differences = remade(studies.find("backbones_small"), tmp_path)
    text = BACKBONES.read_text(encoding="utf-8")
    for pair in (("star", "simclr"), ("star", "equimod"), ("equimod", "simclr")):
        assert gains(differences, *pair) in text, gains(differences, *pair)
    verdict = " ".join(text.partition("## Verdict")[2].split())

    def rows(better: str, worse: str) -> dict[str, list[str]]:
        cells = [line.strip("| ").split(" | ") for line in gains(differences, better, worse).splitlines()[2:]]
        return {name: found for name, *found in cells}

    over_simclr, over_equimod = rows("star", "simclr"), rows("star", "equimod")
    batch, group, convnext, vit = over_simclr.values()
    leads = [row[1].split()[0] for row in over_simclr.values()]
    assert f"it is {', '.join(leads[:3])} and {leads[3]} points under the four backbones" in verdict
    assert all(ends(row[1])[0] > 0 for row in over_simclr.values()) and max(leads, key=float) == leads[1]
    assert f"shows none, {convnext[0]}, and" in verdict and f"of the augmentations, {convnext[3]}." in verdict
    assert f"R2 grows by {vit[3]}, and the interval in linear evaluation includes zero, {vit[0]}." in verdict
    assert ends(batch[0])[0] > 0 and ends(group[0])[0] > 0 and ends(vit[0])[0] < 0
    accuracies = [ends(cell) for row in over_equimod.values() for cell in row[:3]]
    assert len(accuracies) == 12 and all(low < 0 < high for low, high in accuracies)


INVARIANCES = CARDS / "invariances_small" / "README.md"


def test_the_tables_of_policies_are_those_of_their_results(tmp_path: Path) -> None:
    found = remade(studies.find("invariances_small"), tmp_path)
    titles = {"which data set needs which policy", "cosine, 1 is invariant", "cosine by image, dorsal - ventral"}
    assert titles <= {table.title for table in found}
    for table in found:
        if table.title in titles:
            assert tables.markdown(table) in INVARIANCES.read_text(encoding="utf-8"), table.title


def test_the_cost_of_policies_is_that_of_their_runs() -> None:
    study = studies.find("invariances_small")
    (wide,) = (method for method in study.methods if method.name == "wide")
    recipes = [override(study.recipe, method.changes) for method in (study.methods[0], wide)]
    one, control = (sum(p.numel() for p in build_backbone(recipe).parameters()) / 1e6 for recipe in recipes)
    results = {path.stem: json.loads(path.read_text()) for path in (INVARIANCES.parent / "results").glob("*.json")}
    minutes = {name: result["training"]["seconds"] / 60 for name, result in results.items()}
    assert f"{one:.1f} million weights, the fusion {3 * one:.1f} and `wide` {control:.1f}" in words(INVARIANCES)
    assert f"With seed 0, the fusion's three took {minutes['fusion-0']:.0f} minutes" in words(INVARIANCES)
    assert f"`wide` took {minutes['wide-0']:.0f}" in words(INVARIANCES)


def test_the_sets_with_a_clear_best_policy_are_those_of_the_results() -> None:
    """Where the intervals over test images of the best and of the next policy are disjoint, by all measurements."""
    study = studies.find("invariances_small")
    (fusion,) = study.fusions
    results = INVARIANCES.parent / "results"
    seeds = [[outcome.load(results / f"{name}-{seed}.json") for name in fusion.methods] for seed in range(2)]
    clear = []
    for name in study.transfer:
        pairs = itertools.product(seeds, ("linear_accuracy", "knn20_top1"))
        found = [[run.metrics[slug, name] for run in runs] for runs, slug in pairs]
        ordered = [sorted(metrics, key=lambda metric: metric.value) for metrics in found]
        if all(after.high < best.low for *_, after, best in ordered):
            clear.append(name)
    assert f"On {' and '.join(clear)} the intervals over test images of the best" in words(INVARIANCES)


def test_the_lead_of_the_fusion_is_that_of_the_results(tmp_path: Path) -> None:
    study = studies.find("invariances_small")
    (table,) = (found for found in remade(study, tmp_path) if found.title.startswith("which data set"))
    for other in ("best policy", "wide"):
        assert all(float(row[table.head.index(f"fusion - {other}")].split()[0]) > 0 for row in table.rows)
    default, wide = (table.head.index(name) for name in ("default", "wide"))
    ahead = {row[1]: abs(float(row[wide].split()[0]) - float(row[default].split()[0])) for row in table.rows}
    assert all(lead < 4 for name, lead in ahead.items() if name != "signdigits")
    assert "ahead of the best policy and of `wide` on every data set by both classifiers" in words(INVARIANCES)


@pytest.mark.parametrize(
    "name",
    [
        "backbones_small", "cifar10_small", "continued_small", "invariances_small", "methods_small", "symmetry_small",
        "why_correlated",
    ],
)  # fmt: skip
def test_every_result_names_the_code_that_made_it(name: str) -> None:
    names = {reproduction.name_of(*run) for run in reproduction.runs(studies.find(name))}
    paths = list((CARDS / name / "results").glob("*.json"))
    assert {path.stem for path in paths} == names
    for path in paths:
        result = json.loads(path.read_text(encoding="utf-8"))
        assert all(r["versions"]["commit"] for r in result["evaluations"])
        # the parts of a fusion have files of their own
        assert "parts" in result or result["training"]["versions"]["commit"]
        assert path.stat().st_size < (120_000 if name == "why_correlated" else 50_000)  # hundreds of correlations
