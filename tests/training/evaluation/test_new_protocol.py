"""A protocol is one file: commands, cards, listing and page handle a protocol that no other file names."""

import json
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from data_cases import birds
from star_training.cli import main as cli
from star_training.engine.results import read
from star_training.evaluation import frozen_model, protocols
from star_training.evaluation.record import Record
from star_training.publishing import card, listing
from star_training.reports import tables
from star_training.reports.loading import gather
from star_zoo import save_pretrained
from twins import backbone

MAJORITY = '''
"""The class of most training images, for every test image."""

import torch

from star_training.evaluation.metrics import ACCURACY, SHARE, Hits, Measurement, Metric, by_slug, share

CLASSIFIES_IMAGES = IN_ALL = True


def run(model, splits, seed=0):
    train, test = model.labelled(splits.train), model.labelled(splits.test)
    right = test.targets == train.targets.mode().values
    top1 = Metric("majority_top1", "Majority top-1", SHARE, ACCURACY, *share(right))
    length = Metric("length", "length of features", "", "scale", float(test.features.norm(dim=1).mean()))
    spread = Metric("spread", "spread of features", "", "scale", float(test.features.std()), listed=False)
    return Measurement(by_slug([top1, length, spread]), hits={top1.slug: Hits(right, torch.ones(len(right)))})
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A saved model, with the protocol `majority` in a folder outside the package."""
    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols" / "majority.py").write_text(MAJORITY)
    monkeypatch.setattr(protocols, "__path__", [*protocols.__path__, str(tmp_path / "protocols")])
    monkeypatch.setitem(sys.modules, f"{protocols.__name__}.majority", None)
    del sys.modules[f"{protocols.__name__}.majority"]  # monkeypatch removes the imported module afterwards
    return save_pretrained(tmp_path / "mine", backbone())


@pytest.fixture
def evaluated(folder: Path, tmp_path: Path) -> Path:
    """The model after `eval majority`."""
    assert cli.main(["eval", "majority", str(folder), "--data", str(birds(tmp_path))]) == 0
    return folder


def test_its_record_holds_both_metrics(evaluated: Path):
    (found,) = read(evaluated / "results.json")["evaluations"]
    record = Record.from_dict(found)
    assert (record.protocol, list(record.metrics)) == ("majority", ["majority_top1", "length", "spread"])
    top1, length, spread = record.metrics.values()
    assert top1.is_share and top1.is_accuracy and top1.low is not None and top1.low < top1.value
    assert not length.is_share and not length.is_accuracy and length.kind == "scale"
    assert "Majority top-1" in str(record) and "length of features" in str(record)
    assert record.listed == [top1, length] and not spread.listed and spread.value > 0
    assert "spread" not in str(record) and str(record).endswith("and 1 more, by slug, in the results.json")
    assert [row[0] for row in tables.by_data([record]).rows] == ["Majority top-1, %", "length of features"]


def test_compare_runs_it_by_default_and_averages_its_accuracy(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(frozen_model, "_PIXELS", 8)
    packs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        packs.append(str(birds(tmp_path / name)))
    assert cli.main(["compare", str(folder), "pixels", "--data", *packs]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| Majority top-1 | ") == 3 and "| Majority top-1 | mean of all | " in printed
    assert "length of features" not in printed
    (comparison,) = json.loads((folder / "results.json").read_text())["comparisons"]
    assert comparison["protocols"] == ["knn", "linear", "majority"]
    (mean,) = (r for r in comparison["rows"] if r["metric"] == "majority_top1" and r["data"] == "mean of all")
    assert mean["name"] == "Majority top-1"
    assert "| Majority top-1 | mean of all | " in card.render(folder)


def test_its_card_indexes_the_accuracy_and_puts_the_rest_under_properties(evaluated: Path):
    text = card.render(evaluated)
    results, properties = text.split("<details>")
    assert "| majority | Majority top-1, % | birds | " in results
    assert "| majority | length of features | birds | " in properties and "length of features" not in results
    assert "spread of features" not in text
    assert f"star-zoo eval majority {evaluated} --data birds" in text
    assert [found.metric_name for found in ModelCard(text).data.eval_results] == ["Majority top-1"]


def test_the_listing_shows_it(evaluated: Path):
    shown = listing._measured(json.loads((evaluated / "results.json").read_text()))
    assert shown.startswith("Majority top-1 ") and "length of features " in shown and shown.count("(birds)") == 2
    assert "spread" not in shown


def test_the_page_and_tables_show_it_in_its_unit(evaluated: Path, tmp_path: Path):
    out = tmp_path / "report.html"
    assert cli.main(["report", str(evaluated), "--out", str(out)]) == 0
    assert "Majority top-1, %" in out.read_text() and "length of features" not in out.read_text()
    assert "1 metrics that describe features" in out.read_text()
    models = gather([str(evaluated)])
    rows = tables.compare(models, ["majority_top1", "length"]).rows
    top1, length, _ = models[0].evaluations[0].metrics.values()
    assert [row[0] for row in rows] == ["Majority top-1, %", "length of features"]
    assert rows[0][2].startswith(f"{100 * top1.value:.1f} [") and rows[1][2] == f"{length.value:.3f}"
