"""Convolutions that a CPU fails at in channels_last are found by a process of its own, and trained contiguously."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from runs import assert_equal, exported, stopped_at, tiny
from star_training.numerics import layout, trial
from star_training.pretraining.run import Run

PLAIN = [[6, 3, 16, 16], [8, 3, 3, 3], None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1]
TRIAL = Path(trial.__file__).read_text()
LINE = "    yield output.detach()"
CRASH = TRIAL.replace(LINE, f"    layout == torch.channels_last and signal.raise_signal(signal.SIGSEGV)\n{LINE}")
HANG = TRIAL.replace("20 + int(20 *", "1 + int(0 *").replace(
    LINE, f"    layout == torch.channels_last and time.sleep(99)\n{LINE}"
)
WRONG = TRIAL.replace(LINE, f"    leaves[1].register_hook(lambda g: g * (1.01 - 0.01 * g.is_contiguous()))\n{LINE}")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def broken(monkeypatch: pytest.MonkeyPatch, folder: Path, source: str) -> None:
    """Trials are done by another program from now on."""
    assert source != TRIAL
    path = folder / "trial.py"
    path.write_text(source)
    monkeypatch.setattr(trial, "__file__", str(path))


@pytest.mark.parametrize(("source", "how"), [(CRASH, "crashes"), (HANG, "hangs"), (WRONG, "computes wrong numbers")])
def test_a_fault_is_named(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, how: str):
    broken(monkeypatch, tmp_path, source)
    case = "a 3x3 convolution (3 to 8 channels, stride 1, padding 1) on maps [6, 3, 16, 16]"
    assert layout.fault([PLAIN], "no") == f"{case} {how} in channels_last on this CPU"


def test_a_verdict_is_paid_once_and_a_damaged_one_again(home: Path, monkeypatch: pytest.MonkeyPatch):
    assert layout.fault([PLAIN], "no") is None
    (kept,) = (home / "layouts").iterdir()
    right = kept.read_text()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        assert layout.fault([PLAIN], "no") is None
        untried = "channels_last could not be tested on this CPU"
        for damaged in ("", "[]", "null", '{"fault": 5}', right[:20]):
            kept.write_text(damaged)
            assert layout.fault([PLAIN], "no") == untried
        assert layout.fault([PLAIN], "bf16") == untried  # another kernel
    assert layout.fault([PLAIN], "no") is None and kept.read_text() == right
    assert json.loads(right)["fault"] is None


def test_the_convolutions_of_a_pass_are_found_whatever_their_modules_are():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 3, 2, stride=2), nn.Conv2d(3, 8, 3, padding=1)
    )
    with torch.no_grad(), layout.Convolutions() as seen:
        net(torch.zeros(6, 3, 16, 16))
        nn.functional.conv2d(torch.zeros(6, 3, 16, 16), torch.zeros(8, 3, 3, 3), padding=1)
        nn.functional.conv1d(torch.zeros(6, 3, 16), torch.zeros(8, 3, 3))
    stem = [[6, 3, 16, 16], [8, 3, 3, 3], [8], [1, 1], [1, 1], [1, 1], False, [0, 0], 1]
    up = [[6, 8, 16, 16], [8, 3, 2, 2], [3], [2, 2], [0, 0], [1, 1], True, [0, 0], 1]
    assert seen.found == [stem, up, [[6, 3, 32, 32], *stem[1:]], PLAIN]


def test_a_run_whose_layout_fails_is_contiguous_and_stays_so(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = tiny("run.eval_every=0", "channels_last=auto")
    Run(tiny("run.eval_every=0", "channels_last=false"), tmp_path / "contiguous").train()
    with monkeypatch.context() as patch:
        broken(patch, tmp_path, CRASH)
        with pytest.raises(ValueError, match="crashes in channels_last on this CPU; use --set channels_last=auto or"):
            Run(tiny("run.eval_every=0", "channels_last=true"), tmp_path / "refused")
        whole = Run(recipe, tmp_path / "whole")
        (note,) = (note for note in whole.notes if "layout" in note)
        assert note.startswith("training in contiguous layout: a 3x3 convolution (3 to ") and "crashes" in note
        whole.train()
        stopped_at(patch, recipe, tmp_path / "resumed", 5)
    Run(recipe, tmp_path / "resumed", resume=True).train()  # where it would not fail now
    assert_equal(exported(tmp_path / "contiguous"), exported(tmp_path / "whole"))
    assert_equal(exported(tmp_path / "contiguous"), exported(tmp_path / "resumed"))
