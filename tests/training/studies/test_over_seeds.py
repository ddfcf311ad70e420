"""Means over seeds, differences by seed and verdicts, against scipy and by hand; outcomes as files."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from star_training import studies
from star_training.evaluation.metrics import ACCURACY, SHARE, Metric, of_runs
from star_training.reports.tables import compare
from star_training.studies import aggregate as over_seeds
from star_training.studies import curves, dots, outcome
from star_training.studies.outcome import Outcome
from star_training.studies.study import MEAN, Claim, Comparison, Method, Place, Study

SETS = ("a", "b")


def study(*claims: Claim) -> Study:
    methods = tuple(Method(name, "star", seeds=3) for name in ("ours", "theirs"))
    return dataclasses.replace(
        studies.find("cifar10_small"), methods=methods, transfer=SETS, pairs=(("ours", "theirs"),), claims=claims
    )


def made(method: str, seed: int, **numbers: float) -> Outcome:
    """One run with its accuracies on a and b."""
    found = {
        ("linear_accuracy", name): Metric("linear_accuracy", "Linear accuracy", SHARE, ACCURACY, value)
        for name, value in numbers.items()
    }
    details: dict[str, Any] = {"online": [], "heads": [], "losses": {}, "transfer over steps": []}
    return Outcome(method, seed, found, details)


OURS = [(0.5, 0.7), (0.52, 0.74), (0.56, 0.72)]
THEIRS = [(0.45, 0.7), (0.48, 0.68), (0.5, 0.7)]
OUTCOMES = [
    made(method, seed, a=a, b=b)
    for method, runs in (("ours", OURS), ("theirs", THEIRS))
    for seed, (a, b) in enumerate(runs)
]


def cells(shown: list[Any]) -> dict[tuple[str, str], Metric]:
    """By column and data set, the one metric."""
    return {(s.label, r.data): r.metrics["linear_accuracy"] for s in shown for r in s.evaluations}


@pytest.mark.parametrize("count", [2, 3, 5, 21])
def test_intervals_of_runs_are_students(count: int):
    stats = pytest.importorskip("scipy.stats")
    values = [0.1 * k**1.5 for k in range(count)]
    low, high = stats.t.interval(0.95, count - 1, loc=sum(values) / count, scale=stats.sem(values))
    found = of_runs(values)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5 * (high - low))


def test_one_run_has_no_interval_and_many_a_wide_one():
    stats = pytest.importorskip("scipy.stats")
    assert of_runs([0.5]) == (0.5, None, None)
    values = [float(k % 7) for k in range(60)]
    found, exact = of_runs(values), stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.low is not None and exact.low - 0.1 < found.low < exact.low


@pytest.mark.parametrize(
    ("sets", "slugs"), [((), ["knn1_top1", "loss"]), (("a",), ["knn1_top1", "loss"]), (SETS, ["knn1_accuracy", "loss"])]
)
def test_every_number_is_shown_once(sets: tuple[str, ...], slugs: list[str]):
    top1 = Metric("knn1_top1", "1-NN top-1", SHARE, ACCURACY, 0.5, averaged_as=("knn1_accuracy", "1-NN accuracy"))
    accuracy = top1._replace(slug="knn1_accuracy", averaged_as=None)
    found = {(m.slug, "a"): m for m in (top1, accuracy, Metric("loss", "loss", "", "loss", 1.0))}
    outcomes = [Outcome("ours", 0, found, {})]
    every = dataclasses.replace(study(), transfer=sets, shown=())
    assert over_seeds.shown(every, outcomes) == slugs
    assert over_seeds.shown(dataclasses.replace(every, shown=("x",)), outcomes) == ["x"]


def test_means_are_over_seeds_and_the_mean_of_sets_is_taken_in_each():
    found = cells(over_seeds.averaged(study(), OUTCOMES))
    stats = pytest.importorskip("scipy.stats")
    per_seed = [(a + b) / 2 for a, b in OURS]
    low, high = stats.t.interval(0.95, 2, loc=sum(per_seed) / 3, scale=stats.sem(per_seed))
    assert found["ours", MEAN].estimate == pytest.approx((sum(per_seed) / 3, low, high), rel=1e-5)
    assert found["theirs", "a"].value == pytest.approx((0.45 + 0.48 + 0.5) / 3)


def test_differences_are_those_of_a_paired_test():
    stats = pytest.importorskip("scipy.stats")
    found = cells(over_seeds.differences(study(), OUTCOMES))["ours - theirs", "b"]
    interval = stats.ttest_rel([b for _, b in OURS], [b for _, b in THEIRS]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-5)


def test_seeds_that_only_one_has_are_no_pairs():
    found = cells(over_seeds.differences(study(), OUTCOMES[:-1]))["ours - theirs", "a"]
    assert found.value == pytest.approx((0.05 + 0.04) / 2)


def test_a_mean_needs_all_its_sets():
    partial = [made("ours", 0, a=0.5, b=0.7), made("theirs", 0, a=0.5)]
    found = cells(over_seeds.averaged(study(), partial))
    assert found["ours", MEAN].value == 0.6 and ("theirs", MEAN) not in found


def test_the_table_is_in_per_cent_and_says_what_is_missing():
    table = compare(over_seeds.averaged(study(), [made("ours", 0, a=0.5, b=0.7)]), ["linear_accuracy"])
    assert table.head == ["metric", "data", "ours", "theirs"]
    assert ["Linear accuracy, %", MEAN, "60.0", "-"] in table.rows


def test_the_headline_has_a_row_for_every_method():
    stats = pytest.importorskip("scipy.stats")
    short = dataclasses.replace(study(), headline=(Place("linear_accuracy", "a"), Place("linear_accuracy")))
    table = over_seeds.headline(short, OUTCOMES[:4])
    assert table.head == ["method", "seeds", "Linear accuracy, % (a)", f"Linear accuracy, % ({MEAN})"]
    values = [100 * a for a, _ in OURS]
    half = stats.t.ppf(0.975, 2) * stats.sem(values)
    assert table.rows[0][:3] == ["ours", "3", f"{sum(values) / 3:.1f} ± {half:.1f}"]
    assert table.rows[1] == ["theirs", "1", "45.0", "57.5"]


# Claims


def judged(*comparisons: Comparison, outcomes: list[Outcome] = OUTCOMES, note: str = "") -> list[str]:
    (row,) = over_seeds.verdicts(study(Claim("C1", "it is so", comparisons, note)), outcomes).rows
    return row


@pytest.mark.parametrize(
    ("better", "worse", "lower", "verdict"),
    [
        ("ours", "theirs", False, "shown"),
        ("theirs", "ours", False, "contradicted"),
        ("theirs", "ours", True, "shown"),
        ("ours", "theirs", True, "contradicted"),
    ],
)
def test_a_comparison_is_judged_by_its_side_of_zero(better: str, worse: str, lower: bool, verdict: str):
    assert judged(Comparison(better, worse, "linear_accuracy", "a", lower))[2] == verdict


def test_what_is_within_the_spread_or_of_one_seed_is_not_shown():
    assert judged(Comparison("ours", "theirs", "linear_accuracy", "b"))[2] == "not shown"
    row = judged(Comparison("ours", "theirs", "linear_accuracy", "a"), outcomes=[OUTCOMES[0], OUTCOMES[3]])
    assert row[2] == "not shown" and "+5 (one seed)" in row[3]


def test_a_number_may_be_compared_with_zero():
    assert judged(Comparison("ours", "", "linear_accuracy", "a"))[2] == "shown"
    below_one = judged(Comparison("ours", "", "linear_accuracy", "a", lower=True, than=1.0))
    assert below_one[2] == "shown" and ", ours: 52.7 [" in below_one[3]
    assert below_one[3].endswith("], compared with 100")


def test_nothing_measured_is_not_tested_and_several_verdicts_are_listed():
    assert judged(note="a GPU's work")[2:] == ["not tested", "a GPU's work"]
    assert judged(Comparison("ours", "theirs", "unheard of"))[2] == "not tested"
    both = judged(*(Comparison("ours", "theirs", "linear_accuracy", data) for data in SETS))
    first, second = both[3].split("; ")
    assert both[2] == "in part" and first.endswith("] (shown)") and second.endswith("] (not shown)")


# Outcomes


def log(path: Path) -> None:
    entries = [
        {"step": 0, "epoch": 0.0, "knn1": 0.1, "knn20": 0.2},
        {"step": 0, "epoch": 0.0, "router": [[0.5, 0.5], [0.25, 0.75]], "entropy": [0.6, 0.5], "norm": [1.0, 2.0]},
        {"step": 10, "loss": 5.0, "invariant": 3.0, "equivariant": 2.0},
        {"step": 40, "loss": 3.0, "invariant": 2.0, "equivariant": 1.0},
        {"step": 40, "epoch": 1.0, "knn1": 0.2, "knn20": 0.4},
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def finished(folder: Path) -> Path:
    """A run's folder as training and measuring leave it."""
    (folder / "export").mkdir(parents=True)
    log(folder / "log.jsonl")
    record = {
        "protocol": "linear", "model": "m", "data": "a", "data_fingerprint": {}, "images": {}, "seed": 0,
        "settings": {},
        "metrics": {"Linear mean per class": {"value": 0.5, "low": 0.4, "high": 0.6}}, "details": {"long": [1] * 99},
        "seconds": 1.0, "versions": {"commit": "abc"},
    }  # fmt: skip
    cost = {"steps": 40, "images": 320, "seconds": 4.0, "peak_memory": 1_500_000_000, "versions": {"commit": "abc"}}
    results = {"training": cost, "evaluations": [record]}
    (folder / "export" / "results.json").write_text(json.dumps(results))
    (folder / "export" / "recipe.json").write_text(json.dumps({"name": "r"}))
    return folder


def test_an_outcome_holds_numbers_curves_and_the_code_that_made_them(tmp_path: Path):
    path = tmp_path / "results" / "ours-1.json"
    outcome.write(path, "ours", 1, finished(tmp_path / "ours-1"), [{"step": 10, "knn20_top1": {"a": 0.25}}])
    found = outcome.load(path)
    assert (found.method, found.seed) == ("ours", 1)
    assert found.metrics["linear_per_class", "a"].value == 0.5
    assert found.metrics["linear_accuracy", "a"].value == 0.5  # whatever the set's convention
    loss = found.metrics["equivariant_loss", ""]
    assert loss.name == "equivariant loss, mean of all steps"
    assert loss.value == pytest.approx((10 * 2 + 30 * 1) / 40)
    assert found.content["training"]["versions"]["commit"] == "abc" and "details" not in found.content["evaluations"][0]
    assert found.metrics["images_per_second", ""].value == 80 and found.metrics["peak_memory", ""].value == 1.5
    assert found.content["losses"] == {"invariant": [[10, 3.0], [40, 2.0]], "equivariant": [[10, 2.0], [40, 1.0]]}
    assert found.number("linear_accuracy", "a", SETS) == 0.5 and found.number("linear_accuracy", MEAN, SETS) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"method": "a", "seed": 0, "evaluations": 3}'])
def test_a_result_that_is_no_outcome_is_reported_as_such(tmp_path: Path, text: str):
    (tmp_path / "a-0.json").write_text(text)
    with pytest.raises(ValueError, match=r"a-0\.json is not the outcome of a run: .*; remove it"):
        outcome.load(tmp_path / "a-0.json")


def test_curves_are_means_over_seeds_at_common_steps(tmp_path: Path):
    paths = [tmp_path / f"{seed}.json" for seed in (0, 1)]
    for seed, path in enumerate(paths):
        over_steps = [{"step": 10, "knn20_top1": {"a": 0.25}}]
        outcome.write(path, "ours", seed, finished(tmp_path / f"ours-{seed}"), over_steps)
    figure = curves.draw(study(), [outcome.load(path) for path in paths])
    assert figure is not None and figure.png.startswith(b"\x89PNG")
    by_quantity = {row[0]: row[1:] for row in figure.numbers.rows}
    assert by_quantity["20-NN accuracy online, %"] == ["ours", "20.000", "40.000", "40.000"]
    assert by_quantity["20-NN accuracy, mean of small transfer sets, %"][1:] == ["25.000"] * 3
    assert by_quantity["overlap of the tasks' weights"][1] == "0.750"
    assert "canonical correlation of z_inv and z_eq" not in by_quantity  # no run has any


def test_a_method_looks_alike_in_every_plot(monkeypatch: pytest.MonkeyPatch):
    """Also where an earlier method of the study has no such curve, as one without a router."""
    drawn: dict[str, set[str]] = {}

    def look(figure: Any) -> bytes:
        for axis in figure.axes:
            for line in axis.get_lines():
                drawn.setdefault(line.get_label(), set()).add(f"{line.get_color()}{line.get_linestyle()}")
        return b""

    monkeypatch.setattr(curves, "finish", look)
    plain, routed = made("ours", 0), made("theirs", 0)
    for o in (plain, routed):
        o.content["online"] = [{"step": 1, "knn20_top1": 0.5}]
    routed.content["heads"] = [{"step": 1, "router": [[1.0], [1.0]], "entropy": [0, 0], "norm": [1, 1]}]
    curves.draw(study(), [plain, routed], columns=2)
    assert {label: len(looks) for label, looks in drawn.items()} == {"ours": 1, "theirs": 1}
    assert drawn["ours"] != drawn["theirs"]


def test_no_curves_are_drawn_of_nothing():
    assert curves.draw(study(), OUTCOMES) is None


def test_each_run_is_a_dot_in_per_cent(monkeypatch: pytest.MonkeyPatch):
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(dots, "finish", lambda figure, legend: drawn.setdefault("figure", figure) and b"")
    shown = dataclasses.replace(study(), headline=(Place("linear_accuracy", "a"), Place("missing"), Place("loss", "a")))
    figure = dots.draw(shown, [run for run in OUTCOMES if run.method == "theirs"], columns=2)
    assert figure is not None
    (axis,) = drawn["figure"].axes  # no run has the other numbers
    (points,), (line,) = axis.collections, axis.get_lines()
    assert points.get_offsets().tolist() == [pytest.approx([100 * a, 0]) for a, _ in THEIRS]
    assert line.get_xdata() == pytest.approx([100 * sum(a for a, _ in THEIRS) / 3] * 2)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["theirs"]
    assert axis.get_title() == "Linear accuracy, % (a)"
    assert figure.numbers.rows == over_seeds.headline(shown, OUTCOMES[3:]).rows


def test_no_dots_are_drawn_of_nothing():
    assert dots.draw(dataclasses.replace(study(), headline=(Place("missing"),)), OUTCOMES) is None
