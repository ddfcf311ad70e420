"""The pages' numbers are those of result files, table by table."""

import json
import statistics
from pathlib import Path
from typing import Any

from pages import CARDS, README, words
from star_training.engine.results import read
from star_training.evaluation.metrics import Estimate
from star_training.evaluation.record import Record
from star_training.reports import tables
from star_training.reports.loading import Shown
from star_zoo import zoo

ZOO, SPEED = (CARDS / page / "README.md" for page in (".", "benchmarks"))

MODELS = CARDS / "resnet10t"
TAGS = (
    "star_resnet10t.cifar10", "star_resnet10t.cifar10_simclr", "star_resnet10t.tin100", "star_resnet18.tin100",
    "star_convnext_atto.tin100",
)  # fmt: skip
SHOWN = {tag: zoo.EMBEDDED / tag / "results.json" for tag in TAGS} | {"untrained": MODELS / "untrained.json"}
METRICS = [
    "linear_top1", "linear_per_class", "knn20_top1", "knn1_top1",
    "fewshot_cifar_fs_5way_1shot", "fewshot_cifar_fs_5way_5shot",
    "fewshot_fc100_5way_1shot", "fewshot_fc100_5way_5shot", "fewshot_5way_1shot", "fewshot_5way_5shot",
    "linear_top1_1pct", "linear_top1_10pct", "cca", "svcca",
    "r2_pair_features", "r2_pair_z_inv", "r2_pair_z_eq", "mrr_own_recalibrated", "mrr_fitted_features",
    "cosine_rotation", "cosine_horizontal_flip", "cosine_hue", "overlap",
]  # fmt: skip


def cost(results: dict[str, Any] | None, what: str) -> float:
    """Images or seconds of a run and of those before it."""
    return results["training"][what] + cost(results.get("start"), what) if results and "training" in results else 0


def comparison() -> str:
    """The table of the models in the package, made from the result files."""
    results = {label: read(path) for label, path in SHOWN.items()}
    models = [
        Shown(label, None, [], [Record.from_dict(r) for r in found["evaluations"]]) for label, found in results.items()
    ]
    table = tables.compare(models, METRICS)
    images = ["images seen", "", *(f"{cost(found, 'images') / 1e3:,.0f} thousand" for found in results.values())]
    minutes = ["minutes of training", "", *(f"{cost(found, 'seconds') / 60:.0f}" for found in results.values())]
    return tables.markdown(tables.Table("", table.head, [images, minutes, *table.rows]))


def twins() -> str:
    """The table of differences, made from what `star-zoo compare` wrote."""
    (found,) = read(SHOWN[TAGS[0]])["comparisons"]
    assert (found["model"], found["other"]) == TAGS[:2]
    head = ["metric, %", "data", "STAR", "SimCLR", "difference [95 % interval]"]
    rows = []
    for row in found["rows"]:
        both = (f"{100 * row[which]:.1f}" for which in ("first", "second"))
        rows.append([row["name"], row["data"], *both, Estimate(**row["difference"]).per_cent()])
    return tables.markdown(tables.Table("", head, rows))


def test_the_tables_of_the_models_are_those_of_the_result_files() -> None:
    text = ZOO.read_text(encoding="utf-8")
    for expected in (comparison(), twins()):
        assert len(expected.splitlines()) > 8
        assert expected in text, expected


def test_the_readmes_tags_have_the_accuracy_of_the_result_files() -> None:
    text = README.read_text(encoding="utf-8")
    for tag in TAGS:
        metrics: dict[str, Any] = {}
        for record in read(SHOWN[tag])["evaluations"]:
            metrics |= record["metrics"] if record["data"] == "cifar10" else {}
        numbers = [f"{100 * metrics[name]['value']:.1f}" for name in ("linear_top1", "knn20_top1")]
        (row,) = (line for line in text.splitlines() if line.startswith(f"| `{tag}` |"))
        assert row.endswith(f" | {' | '.join(numbers)} |")


def test_the_size_of_the_models_is_that_of_their_files() -> None:
    size = sum(path.stat().st_size for tag in TAGS for path in (zoo.EMBEDDED / tag).iterdir())
    assert f"with their heads they add {size / 1e6:.0f} MB to the" in words(ZOO)


def test_costs_in_words_are_those_of_the_result_files() -> None:
    ours, _, tin100, *others = (cost(read(SHOWN[tag]), "images") / 1e6 for tag in TAGS)
    assert f"saw {tin100:.1f} million images to the other's {ours:.1f}" in words(ZOO)
    for tag, images in zip(TAGS[3:], others, strict=True):
        assert f"`{tag}` saw {images:.1f} million images" in words(ZOO)


def test_the_lead_with_few_labels_is_that_of_the_result_files() -> None:
    found = []
    for tag in TAGS[:2]:
        records = [record["metrics"] for record in read(SHOWN[tag])["evaluations"] if record["data"] == "cifar10"]
        metrics = {name: metric["value"] for record in records for name, metric in record.items()}
        found.append([100 * metrics[f"linear_top1{share}"] for share in ("_1pct", "_10pct", "")])
    few, some, every = (f"{ours - twins:.1f}" for ours, twins in zip(*found, strict=True))
    assert f"is smaller: {few} points with 1 % of them, {some} with 10 %, {every} with all." in words(ZOO)


def test_the_sizes_of_the_data_sets_are_those_of_the_records() -> None:
    lines = ZOO.read_text(encoding="utf-8").partition("## The data sets")[2].splitlines()
    rows = [line.removeprefix("| ").split(" | ") for line in lines if line.startswith("| ")][2:]
    stated = {row[0]: [int(cell) if cell != "-" else None for cell in row[1:4]] for row in rows}
    for tag in TAGS:
        for record in read(SHOWN[tag])["evaluations"]:
            sizes = dict(zip(("train", "val", "test"), stated[record["data"]], strict=True))
            assert record["images"].items() <= sizes.items(), record["data"]  # some protocols don't read all splits


def test_every_record_names_the_commit_that_made_it() -> None:
    for path in SHOWN.values():
        results = read(path)
        assert all(r["versions"]["commit"] for r in [*results["evaluations"], *results.get("comparisons", [])])


BENCHMARKS = CARDS / "benchmarks"


def as_named_today(record: str) -> str:
    """A record's JSON, in which the backbone alone isn't called the limit, as it was at first."""
    return record.replace('"share of the limit"', '"times the backbone alone"').replace('"limit"', '"backbone alone"')


def records(name: str) -> list[dict[str, Any]]:
    """The records of a benchmark's runs, in order."""
    text = [path.read_text(encoding="utf-8") for path in sorted(BENCHMARKS.glob(f"{name}_*.json"))]
    return [json.loads(as_named_today(each)) for each in text]


def spread(ratio: dict[str, float]) -> str:
    """A ratio with its range over the rounds."""
    return "{median:.2f} ({least:.2f} to {most:.2f})".format(**ratio)


def speed() -> str:
    """The table of `star-zoo bench pretrain`, made from the records of its runs."""
    found = [record["sizes"] for record in records("pretrain")]
    variants = ["ours", "released style", "backbone alone"]
    shares = ["times the backbone alone", "times the released style"]
    if all("roofline" in measured for sizes in found for measured in sizes.values()):
        variants.append("roofline")
        shares.append("share of the roofline")
    rows = [
        "| " + " | ".join(("size", "run", *variants, *shares)) + " |",
        "| --- " * (2 + len(variants) + len(shares)) + "|",
    ]
    for name in found[0]:
        for number, sizes in enumerate(found, 1):
            measured = sizes[name]
            rates = (f"{measured['samples per second'][each]:.1f}" for each in variants)
            ratios = (spread(measured[each]) for each in shares)
            rows.append("| " + " | ".join((name, str(number), *rates, *ratios)) + " |")
    return "\n".join(rows)


def test_speeds_are_those_that_were_recorded() -> None:
    assert speed() in SPEED.read_text(encoding="utf-8")


def test_the_speed_with_products_on_small_maps_is_the_one_that_was_recorded() -> None:
    found = [record["sizes"]["r18-32"] for record in records("small_maps")]
    alone, style = (
        " and ".join(spread(measured[ratio]) for measured in found)
        for ratio in ("times the backbone alone", "times the released style")
    )
    assert len(found) == 2
    assert f"have the ratios {alone} to the backbone alone, and {style} to the released style" in words(SPEED)


def peers() -> str:
    """The table of `star-zoo bench peers`, made from the records of its runs."""
    rows = [
        "| size | run | ours | lightly | timm | times lightly | times timm, by view | our memory, MiB | to lightly's |",
        "| --- " * 9 + "|",
    ]
    found = [record["sizes"] for record in records("peers")]
    for name in found[0]:
        for number, sizes in enumerate(found, 1):
            measured = sizes[name]
            rates = [f"{measured['images per second'][side]:.1f}" for side in ("star_zoo", "lightly", "timm")]
            ratios = [spread(measured[each]) for each in ("times lightly", "times timm, by view")]
            resident = measured["memory"]["star_zoo"]["resident"] / 2**20
            memory = [f"{resident:.0f}", f"{measured['memory of lightly']:.2f}"]
            rows.append("| " + " | ".join((name, str(number), *rates, *ratios, *memory)) + " |")
    return "\n".join(rows)


def warm() -> str:
    """The table of `star-zoo bench warm`, made from the records of its runs."""
    rows = ["| run | star-zoo eval knn, s | plain torch, s | times as long |", "| --- " * 4 + "|"]
    for number, measured in enumerate(records("warm"), 1):
        seconds = [f"{statistics.median(each[name] for each in measured['seconds']):.2f}" for name in ("ours", "plain")]
        rows.append("| " + " | ".join((str(number), *seconds, spread(measured["ratio"]))) + " |")
    return "\n".join(rows)


def test_peers_and_warm_evaluations_are_as_recorded() -> None:
    text = SPEED.read_text(encoding="utf-8")
    assert peers() in text and warm() in text


def test_evaluations_of_all_sets_took_what_was_recorded() -> None:
    found = records("eval_all")
    assert len(found) == 2 and all(len(measured["protocols"]) == 9 for measured in found)
    rows = ["| run | all, s | linear evaluation of CIFAR-100, s |", "| --- " * 3 + "|"]
    for number, measured in enumerate(found, 1):
        linear = measured["protocols"]["cifar100"]["linear"]
        rows.append(f"| {number} | {measured['seconds']:.0f} | {linear:.1f} |")
    assert "\n".join(["", *rows, "", ""]) in SPEED.read_text(encoding="utf-8")
    assert f"nine data sets with {found[0]['images']:,} images" in words(SPEED)


def test_the_accuracies_of_weights_from_elsewhere_are_those_that_were_recorded() -> None:
    def accuracies(path: Path) -> dict[str, float]:
        evaluations = [each for each in read(path)["evaluations"] if each["protocol"] == "linear"]
        return {each["data"]: next(iter(each["metrics"].values()))["value"] for each in evaluations}

    taken, own = accuracies(CARDS / "efficientnet_lite0" / "results.json"), accuracies(SHOWN["star_resnet10t.cifar10"])
    rows = [f"| {data} | {100 * value:.1f} | {100 * own[data]:.1f} |" for data, value in sorted(taken.items())]
    head = ["| data | tf_efficientnet_lite0 | star_resnet10t.cifar10 |", "| --- " * 3 + "|"]
    assert len(rows) == 3 and "\n".join(["", *head, *rows, "", ""]) in (README.parent / "training/README.md").read_text(
        encoding="utf-8"
    )


def test_the_command_line_starts_as_fast_as_recorded() -> None:
    found = json.loads((BENCHMARKS / "imports.json").read_text(encoding="utf-8"))["commands"]
    took = {command: f"{statistics.median(seconds):.2f}" for command, seconds in found.items()}
    assert f"`star-zoo --help` takes {took['--help']} s, `star-zoo list` {took['list']} s" in words(SPEED)


def test_the_rate_of_decoding_is_the_one_that_was_recorded() -> None:
    found = json.loads((BENCHMARKS / "data.json").read_text(encoding="utf-8"))
    small = sorted((each for size, each in found.items() if size.startswith("500 x ")), key=lambda each: each["ratio"])
    rates = " to ".join(f"{rate:.0f}" for rate in sorted(each["ours, images/s"] for each in small))
    text = words(SPEED)
    assert f"views of {rates} JPEGs of 500 px a second" in text
    assert f"{small[0]['ratio']:.1f} to {small[1]['ratio']:.1f} times as fast as PIL's plain way" in text
