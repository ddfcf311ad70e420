"""The benchmark of warm evaluations: both programs find the same accuracy, whole processes are timed."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_cases import encoded, write_parquet
from runs import finish, start
from star_training.benchmarks import warm
from star_training.cli.main import main


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs run in processes that need no time to import; that of imports.run_python has its own test."""

    def run_python(*arguments: str) -> str:
        code, out, err = finish(start([], program=arguments))
        assert code == 0, err
        return out

    monkeypatch.setattr(warm, "run_python", run_python)


@pytest.fixture
def data(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(60)]
    return str(
        write_parquet(
            tmp_path / "noise.parquet",
            image=[encoded(picture, "PNG") for picture in pictures],
            label=[k % 3 for k in range(60)],
            split=["train"] * 30 + ["test"] * 30,
        )
    )


def test_both_programs_are_timed_and_agree(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    assert main(["bench", "warm", "--data", data, "--rounds", "1", "--out", str(out)]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert (found["model"], found["data"], found["images"]) == ("star_resnet10t", "noise", {"train": 30, "test": 30})
    (seconds,) = found["seconds"]
    assert found["ratio"]["median"] == pytest.approx(seconds["ours"] / seconds["plain"])
    assert "times as long" in capsys.readouterr().out


def test_different_accuracies_are_an_error(
    data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warm, "_PLAIN", "print(2.0)")
    assert main(["bench", "warm", "--data", data, "--rounds", "1"]) == 1
    assert "they don't do the same work" in capsys.readouterr().err
