"""The benchmark of imports: equal weights both ways, rounds in turn, the first dropped."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm

from runs import assert_equal
from star_training.benchmarks import imports


def test_declaring_the_benchmarks_imports_nothing_heavy():
    program = "import sys, star_training.benchmarks.pretrain, star_training.benchmarks.imports; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "star_training.benchmarks.pretrain" in done.stdout.split()
    assert not {"accelerate", "matplotlib", "timm", "torch"} & set(done.stdout.split())


def test_both_ways_load_the_same_weights():
    file = imports.weights()
    loaded = [
        eval(load, {"timm": timm, "sys": SimpleNamespace(argv=["", str(file)])}) for load in imports._LOADS.values()
    ]
    assert_equal(*(dict(model.state_dict()) for model in loaded))


def test_the_first_round_is_dropped_and_the_order_alternates(monkeypatch, capsys):
    measured: list[str] = []

    def measure(package: str, file: Path) -> dict[str, float]:
        measured.append(package)
        once = {"timm": 100.0, "star_zoo": 1.0} if len(measured) <= 2 else {"timm": 2.0, "star_zoo": 3.0}
        return {"import": once[package], "load": 2 * once[package]}

    monkeypatch.setattr(imports, "measure", measure)
    starts = iter([90.0, 91.0, 1.0, 4.0, 3.0, 5.0])  # the first round is dropped
    monkeypatch.setattr(imports, "start", lambda command: next(starts))
    found = imports.run(SimpleNamespace(rounds=2))
    assert measured == ["timm", "star_zoo", "star_zoo", "timm", "timm", "star_zoo"]
    assert found["import"]["ratio"]["median"] == found["load"]["ratio"]["most"] == 1.5
    assert len(found["load"]["seconds"]) == 2
    assert found["commands"] == {"--help": [1.0, 3.0], "list": [4.0, 5.0]}
    out = capsys.readouterr().out
    assert "1.500 times as long" in out and "star-zoo list             4.500 s (4.000 to 5.000" in out


@pytest.mark.slow
def test_a_process_of_its_own_reports_its_seconds():
    seconds = imports.measure("star_zoo", imports.weights())
    assert seconds["import"] > seconds["load"] > 0
    assert imports.start("--help") < seconds["import"]
