"""The benchmark of the linear protocol: both solvers solve the same problem, and the record says how well."""

import json
from pathlib import Path

import pytest
import torch

from star_training import benchmarks
from star_training.benchmarks.linear import compare as bench
from star_training.cli.main import main
from star_training.evaluation.protocols.linear import STRENGTHS


def test_benchmarks_are_found_by_name():
    assert "linear" in benchmarks.known()
    assert benchmarks.find("linear").__name__ == bench.__package__


def test_both_solvers_are_compared_with_the_optimum(tmp_path: Path, capsys):
    size = ["--images", "120", "--features", "12", "--classes", "3"]
    assert main(["bench", "linear", *size, "--out", str(tmp_path / "bench.json")]) == 0
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["ours"]["gap"] <= 1e-5
    assert [w for w, _ in found["ours"]["gap by w"]] == list(STRENGTHS)
    assert min(gap for solver in ("ours", "protocol") for _, gap in found[solver]["gap by w"]) >= -1e-9
    assert max(gap for _, gap in found["exact"]["gap by w"]) <= 1e-8
    assert all(found["ours"][key] == pytest.approx(found["exact"][key]) for key in ("w", "validation", "test"))
    assert found["ratio"] == pytest.approx(found["protocol"]["seconds"] / found["ours"]["seconds"])
    assert "times as fast as the protocol" in capsys.readouterr().out


def test_a_model_without_data_is_refused(capsys):
    assert main(["bench", "linear", "--model", "star_resnet10t"]) == 1
    assert "pass --model and --data together" in capsys.readouterr().err


def test_made_up_features_are_the_same_for_the_same_seed_and_threads_come_back():
    threads = torch.get_num_threads()
    arguments = type("Arguments", (), {"seed": 3, "features": 6, "images": 40, "classes": 3, "model": None})
    one, again = (bench._made_up(arguments) for _ in range(2))
    assert torch.equal(one.train.features, again.train.features)
    assert torch.get_num_threads() == threads
