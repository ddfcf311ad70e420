"""Two models on the same images, against scipy, by hand, and by how often the interval holds the truth."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_cases import birds
from eval_cases import Oracle, blobs, splits
from runs import finish, start
from star_training.cli import main as cli
from star_training.cli.execute import parser
from star_training.evaluation.metrics import Estimate, Hits
from star_training.evaluation.paired_comparison import MEAN, as_record, compare, difference, mean
from star_training.publishing import card
from star_zoo import save_pretrained
from twins import backbone


def hits(right: Tensor, weights: Tensor | None = None) -> Hits:
    return Hits(right.bool(), torch.ones(len(right)) if weights is None else weights)


def draw(count: int, share: float, seed: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) < share


@pytest.mark.parametrize("count", [1, 18, 400])
def test_the_interval_is_as_wide_as_that_of_bonett_and_price(count: int):
    a, b = draw(count, 0.7, 0), draw(count, 0.6, 1)
    first, second = (float((one & ~other).sum() + 1) / (count + 2) for one, other in ((a, b), (b, a)))
    half = 1.959964 * math.sqrt((first + second - (first - second) ** 2) / (count + 2))
    value = float(a.double().mean() - b.double().mean())
    assert difference(hits(a), hits(b)) == pytest.approx((value, value - half, value + half))


def test_the_difference_on_many_images_is_that_of_a_paired_test():
    stats = pytest.importorskip("scipy.stats")
    a, b = draw(40_000, 0.7, 0), draw(40_000, 0.6, 1)
    by_image = a.double().numpy() - b.double().numpy()
    low, high = stats.norm.interval(0.95, loc=by_image.mean(), scale=stats.sem(by_image))
    assert difference(hits(a), hits(b)) == pytest.approx((by_image.mean(), low, high), abs=1e-5)


def test_few_images_on_which_two_models_agree_show_little():
    few, many = (difference(hits(a), hits(a)) for a in (draw(18, 0.7, 0), draw(10_000, 0.7, 0)))
    assert few.value == many.value == 0
    assert few.high is not None and few.high > 0.1 and many.high is not None and many.high < 0.001


def test_what_two_models_have_in_common_doesnt_widen_the_interval():
    """The second errs wherever the first does, and on a few images more: the pairs know, two intervals would not."""
    a = draw(1000, 0.7, 0)
    found = difference(hits(a), hits(a & draw(1000, 0.97, 1)))
    assert found.low is not None and found.low > 0 and found.value < 0.03


def test_classes_may_count_alike():
    """By hand: of class 0 (3 images) one more is right, of class 1 (1 image) one fewer."""
    weights = torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0])
    a, b = torch.tensor([1, 1, 0, 0]), torch.tensor([1, 0, 0, 1])
    assert difference(hits(a, weights), hits(b, weights)).value == pytest.approx((1 / 3 - 1) / 2)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    truth, held = 0.7 * 0.2 - 0.3 * 0.5, 0  # the first alone is right less the second alone
    for seed in range(400):
        a = draw(300, 0.7, 3 * seed)
        b = torch.where(a, draw(300, 0.8, 3 * seed + 1), draw(300, 0.5, 3 * seed + 2))
        found = difference(hits(a), hits(b))
        assert found.low is not None and found.high is not None
        held += found.low <= truth <= found.high
    assert held / 400 == pytest.approx(0.95, abs=0.03)


def test_the_mean_over_sets_adds_variances():
    sets = [Estimate(0.02, 0.02 - 0.03, 0.02 + 0.03), Estimate(0.06, 0.06 - 0.04, 0.06 + 0.04)]
    assert mean(sets) == pytest.approx((0.04, 0.04 - 0.025, 0.04 + 0.025))


# By protocol


def test_models_are_compared_by_each_protocol_on_each_set_and_on_average():
    easy = splits(blobs(90), blobs(60, seed=1))
    hard = splits(blobs(90, spread=3.0), blobs(60, spread=3.0, seed=1))
    good, blind = Oracle(), Oracle()
    blind.features = lambda source: torch.ones(len(source), 3)  # type: ignore[method-assign]
    rows = compare(good, blind, [easy, hard], ["linear", "knn"], seed=0)
    assert [(r.name, r.data) for r in rows] == [
        ("Linear top-1", "given"), ("Linear top-1", "given"),
        ("1-NN top-1", "given"), ("20-NN top-1", "given"), ("1-NN top-1", "given"), ("20-NN top-1", "given"),
        ("Linear accuracy", MEAN), ("1-NN accuracy", MEAN), ("20-NN accuracy", MEAN),
    ]  # fmt: skip
    assert [r.metric for r in rows[-3:]] == ["linear_accuracy", "knn1_accuracy", "knn20_accuracy"]
    for row in rows:
        assert row.difference.value == pytest.approx(row.first - row.second)
    assert all(row.difference.low is not None and row.difference.low > 0 for row in (rows[0], rows[2], rows[-3]))
    assert rows[-3].first == pytest.approx((rows[0].first + rows[1].first) / 2)
    reverse = compare(blind, good, [easy], ["knn"], seed=0)
    assert reverse[0].difference.value == pytest.approx(-rows[2].difference.value)
    record = as_record(good, blind, [easy, hard], ["linear", "knn"], 0, rows)
    assert json.loads(json.dumps(record))["rows"][0]["first"] == rows[0].first


def test_a_protocol_without_right_and_wrong_is_refused():
    given = splits(blobs(90, classes=5), blobs(160, classes=5, seed=1))
    with pytest.raises(ValueError, match="few_shot doesn't classify test images one by one; pass knn or linear"):
        compare(Oracle(), Oracle(), [given], ["few_shot"], seed=0)


def test_the_command_prints_and_writes_the_table(tmp_path: Path):
    pack = birds(tmp_path)
    out = tmp_path / "results.json"
    out.write_text('{"comparisons": [{"model": "pixels", "other": "another", "seed": 0, "rows": []}], "kept": 1}')
    arguments = ["compare", "pixels", "untrained:test_resnet", "--data", str(pack), "--protocol", "knn"]
    for _ in range(2):  # the second takes the place of the first
        code, printed, said = finish(start([*arguments, "--out", str(out)]))
        assert code == 0, said
        assert said == f"{pack}: 40 images of 4 classes in train, 20 in test\n"
        assert "| 20-NN top-1 | birds |" in printed and printed.count("|\n") == 4
    written = json.loads(out.read_text())
    other, found = written["comparisons"]
    assert (written["kept"], other["other"]) == (1, "another")
    assert (found["model"], found["other"], found["seed"]) == ("pixels", "untrained:test_resnet", 0)
    assert found["protocols"] == ["knn"] and found["versions"]["timm"]
    assert list(found["data_fingerprints"]["birds"]) == ["train", "test"]
    assert [row["metric"] for row in found["rows"]] == ["knn1_top1", "knn20_top1"]


def test_a_saved_folder_keeps_what_it_was_compared_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """As with `eval`, in its own results.json; its card states it, with the command that repeats it."""
    pack = birds(tmp_path)
    folder = save_pretrained(tmp_path / "mine", backbone())
    assert cli.main(["compare", str(folder), "pixels", "--data", str(pack), "--protocol", "knn", "--seed", "3"]) == 0
    capsys.readouterr()
    (found,) = json.loads((folder / "results.json").read_text())["comparisons"]
    assert (found["model"], found["other"]) == ("mine", "pixels")
    assert str(tmp_path) not in json.dumps(found)  # records are published
    text = card.render(folder)
    row = found["rows"][1]
    assert "Comparison with `pixels` on the same test images" in text
    numbers = (f"{100 * value:.1f}" for value in (row["first"], row["second"], row["difference"]["value"]))
    assert f"| 20-NN top-1 | birds | {' | '.join(numbers)} [" in text
    (again,) = (line for line in text.splitlines() if line.startswith("star-zoo compare"))
    assert again == f"star-zoo compare {folder} pixels --data birds --protocol knn --seed 3"
    assert parser().parse_args(again.split()[1:]).seed == 3
