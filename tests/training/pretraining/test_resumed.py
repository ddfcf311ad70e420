"""`--resume` needs nothing but the run's folder: it reads the run's own settings, and refuses others by name."""

import shutil
from pathlib import Path

import pytest

from runs import NOISY, assert_equal, command, entries, exported, stopped_at, tiny
from star_training.cli.main import main
from star_training.pretraining.run import Run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    Run(tiny(*NOISY), out).train()
    return out


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped run that no test goes on with."""
    out = tmp_path_factory.mktemp("stopped") / "my run"
    stopped_at(pytest.MonkeyPatch(), tiny(*NOISY), out, 5)
    return out


@pytest.fixture
def stopped(before: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(before, tmp_path / "my run")


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["pretrain", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_run_goes_on_with_its_own_settings_and_others_of_run(stopped: Path, whole: Path):
    assert main(["pretrain", "--resume", "--out", str(stopped), "--set", "run.log_every=4"]) == 0
    assert_equal(exported(stopped), exported(whole))
    assert [e["step"] for e in entries(stopped)] == [1, 2, 3, 4, 5, 6, 8]  # the sixth has a checkpoint


def test_the_recipe_may_be_named_again_with_all_settings_or_none(stopped: Path, whole: Path, capsys):
    again = ["spirograph_tiny", "--out", str(stopped), "--resume"]
    for more in ([], command(stopped, settings=NOISY)[4:]):
        assert main(["pretrain", *again, *more, "--show"]) == 0
    assert main(["pretrain", *again]) == 0
    assert_equal(exported(stopped), exported(whole))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "batch_size=8", "--set", "run.keep=1"], "(theirs, yours): batch_size: 4, 8; pass the same"),
        (["--objective", "simclr"], "objective: 'star', 'simclr'"),
        (["--set", "policy.augmentations+=Invert"], "policy.augmentations.1.name: None, 'Invert'"),
        (["--set", "accumulate=4", "--set", "seed=1"], "accumulate: 2, 4; seed: 0, 1; pass"),
        (["folder"], "holds a run of the recipe 'spirograph_tiny', not 'folder'"),
        (["foulder"], "recipe 'foulder' not found"),
    ],
)
def test_other_settings_are_refused_by_name(arguments, message: str, before: Path, capsys):
    files = {path: path.read_bytes() for path in before.rglob("*.*")}
    assert message in refusal(capsys, *arguments, "--resume", "--out", str(before))
    assert {path: path.read_bytes() for path in before.rglob("*.*")} == files


def test_there_must_be_a_run(tmp_path: Path, capsys):
    message = refusal(capsys, "--resume", "--out", str(tmp_path))
    assert message.startswith(f"star-zoo: {tmp_path} holds no run to resume")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "held", "holder", "asked"),
    [
        ("finetune.json", "{}", "finetune", "pretrain"),
        ("recipe.json", '{"objective": "star"}', "pretrain", "finetune"),
        ("recipe.json", '{"head": "fpn"}', "detect", "finetune"),
        ("finetune.json", "{}", "finetune", "detect"),
        ("recipe.json", '{"objective": "star"}', "pretrain", "detect"),
        ("recipe.json", '{"head": "fpn"}', "detect", "pretrain"),
    ],
)
def test_a_run_of_another_command_is_named_with_the_command_that_continues_it(
    file: str, held: str, holder: str, asked: str, tmp_path: Path, capsys
):
    out = tmp_path / "my run"
    out.mkdir()
    (out / file).write_text(held)
    assert main([asked, "--resume", "--out", str(out)]) == 1
    way = f"star-zoo {holder} --resume --out '{out}'"
    assert capsys.readouterr().err == f"star-zoo: {out} holds a run of {holder}; go on with: {way}\n"


def test_a_folder_in_place_of_the_recipe_is_answered_with_the_option(tmp_path: Path, capsys):
    message = refusal(capsys, "--resume", str(tmp_path))
    way_out = f"--resume --out {tmp_path} (resume=True, out=...)"
    assert message == f"star-zoo: {tmp_path} is a folder, not a recipe; to continue its run: {way_out}"
