"""`star-zoo curves`: a point of each plot is where its value belongs."""

import json
from pathlib import Path

import pytest

from star_training.cli.main import main
from star_training.reports import curves

LINES = [
    {"step": 0, "epoch": 0.0, "knn20_top1": 0.25, "rankme": 8.0},
    {"step": 0, "epoch": 0.0, "router": [[1.0]]},
    *({"step": step, "loss": 9.0 - step} for step in range(1, 9)),
    {"step": 8, "epoch": 1.0, "knn20_top1": 0.75, "rankme": 8.0},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return tmp_path


def test_curves_are_those_of_the_log():
    assert curves.over_steps(LINES) == {
        "loss": ([*range(1, 9)], [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]),
        "knn20_top1": ([0, 8], [0.25, 0.75]),
        "rankme": ([0, 8], [8.0, 8.0]),
    }
    assert curves.over_steps([]) == {}


def test_a_falling_loss_falls_and_a_constant_is_a_line_of_text(run: Path, capsys):
    assert main(["curves", str(run)]) == 0
    loss, knn, rank = capsys.readouterr().out.split("└")
    assert "loss: 8 at step 1, 1 at step 8" in loss and rank.endswith("\nrankme: 8 at step 0 and up to step 8\n")
    for plot, first, last in ((loss, 0, 9), (knn, 9, 0)):
        rows = [line[1:61] for line in plot.splitlines() if line.startswith("│")]
        assert rows[first][0].strip("│ ") and rows[last][-1].strip("│ ")  # ink at both ends of the diagonal
        assert not rows[9 - first][1:20].strip()  # and none in a corner beside it


def test_axes_show_the_values_of_the_log(tmp_path: Path):
    values = [3.62, 3.3, 2.87]
    lines = [{"step": step, "loss": value} for step, value in zip((5, 10, 15), values, strict=True)]
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in [*lines, {"step": 0, "r2": 0.5}]))
    plot, r2 = curves.text(tmp_path)
    rows = [line[62:] for line in plot.splitlines() if line.startswith("│")]
    assert rows == [" 3.62", *[""] * 8, " 2.87"]
    assert plot.splitlines()[-1].split() == ["5", "15"] and len(plot.splitlines()[-1]) == 61
    assert r2 == "r2: 0.5 at step 0"


@pytest.mark.parametrize("text", [None, "", '{"step": 0, "router": []}\n'])
def test_a_folder_without_losses_is_refused(tmp_path: Path, capsys, text: str | None):
    if text is not None:
        (tmp_path / "log.jsonl").write_text(text)
    assert main(["curves", str(tmp_path)]) == 1
    assert f"{tmp_path} holds no log.jsonl with a loss" in capsys.readouterr().err
