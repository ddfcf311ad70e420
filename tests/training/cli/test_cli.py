"""The command line: what is typed reaches the recipe, and every end has its exit code and its one line."""

import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm

import star_zoo
from runs import EPOCH, EVALUATED, STEPS, TINY, at_step, command, entries, tiny
from star_training import recipes
from star_training.cli import COMMANDS
from star_training.cli import main as cli
from star_training.cli.execute import parser
from star_training.cli.main import main
from star_training.cli.train.pretrain import recipe_of
from star_training.pretraining.recipe import Recipe
from star_training.pretraining.run import Run
from star_training.publishing import card
from star_zoo import objectives


def typed(*arguments: str) -> Recipe:
    return recipe_of(parser().parse_args(["pretrain", *arguments]))


def refusal(capsys, *arguments: str) -> str:
    """The one line that a refused command says."""
    assert main([*arguments]) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("star-zoo: ") and captured.out == ""
    return line


# What is typed


def test_a_recipe_alone_is_that_recipe():
    """The paper's settings, section 4 and appendix: read from the paper, not from the code."""
    recipe = typed("stl10_resnet18")
    assert (recipe.backbone, recipe.objective, recipe.batch_size, recipe.epochs) == ("star_resnet18", "star", 256, 200)
    assert (recipe.objective_args, recipe.policy.size, recipe.optimizer.lr) == ({"num_experts": 16}, 96, 0.03)
    assert {typed(name).name for name in recipes.known()} == set(recipes.known())


def test_options_reach_their_fields():
    recipe = typed(
        "folder", "--data", "my images", "--objective", "simclr", "--max-bad", "0.5", "--init-from", "runs/x",
        "--set", "optimizer.lr=0.5", "--set", "policy.augmentations.0.size=64", "--set", "backbone=resnet18",
    )  # fmt: skip
    assert (recipe.data.source, recipe.data.max_bad) == ("my images", 0.5)
    assert (recipe.objective, recipe.objective_args) == ("simclr", {})
    assert (recipe.init_from, recipe.backbone) == ("runs/x", "resnet18")
    assert (recipe.optimizer.lr, recipe.policy.size) == (0.5, 64)
    assert recipe.data.hold_out == recipes.find("folder").data.hold_out


@pytest.mark.parametrize("name", objectives.known())
def test_the_objective_of_a_recipe_can_be_another(name: str):
    plain, other = (typed("stl10_resnet18", *more).to_dict() for more in ([], ["--objective", name]))
    differing = {key for key in plain if plain[key] != other[key]}
    assert other["objective"] == name and differing <= {"objective", "objective_args", "policy"}
    kept = {"num_experts": 16} if "num_experts" in objectives.settings(name) else {}  # settings that it has too
    assert other["objective_args"] == kept


def test_set_comes_last():
    assert typed("folder", "--data", "a", "--set", "data.source=b").data.source == "b"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian"], "command 'pretrian' not found; did you mean 'pretrain'? known: quickstart, pretrain, eval"),
        (["pretrain", "foulder"], "recipe 'foulder' not found; did you mean 'folder'? known: cifar10_resnet10t"),
        (["pretrain", "folder", "--objective", "starr"], "objective 'starr' not found; did you mean 'star'? known: "),
        (["pretrain", "folder", "--set", "optimizer.lr"], "has no value; write path=value"),
        (["pretrain", "folder", "--set", "optimiser.lr=1"], "did you mean 'optimizer'?"),
        (["pretrain", "folder", "--set", "batch_size=many"], "batch_size is 'many'; it must be a whole number"),
        (
            ["pretrain", "spirograph_tiny", "--tracker", "tensorbord"],
            "tracker 'tensorbord' not found; did you mean 'tensorboard'?",
        ),
        (["pretrain", "spirograph_tiny", "--set", "backbone=resnet19"], "'resnet19' is no timm model; did you mean"),
    ],
)
def test_a_wrong_name_is_refused_with_the_right_ones(arguments, message: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert message in refusal(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        ([], "star-zoo"),
        (["pretrain", "folder", "--max-bad", "few"], "star-zoo pretrain"),
        (["compare", "a", "b", "c"], "star-zoo compare"),
    ],
)
def test_wrong_usage_shows_the_usage_of_the_command(arguments: list[str], usage: str, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"usage: {usage} [-h]")


def test_help_names_every_recipe_and_what_it_is(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for name, line in recipes.known().items():
        words = r"\s+".join(map(re.escape, line.split()))
        assert re.search(rf"^  {name} +{words}$", printed, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal_of_a_hundred_columns(command: str, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"star-zoo {star_zoo.__version__}\n"


# How a command ends


def test_a_finished_run_says_how_to_load_it(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["pretrain", "spirograph_tiny", "--objective", "simclr", "--set", "objective_args.hidden=8"]
    for setting in (s for s in TINY if not s.startswith("objective_args")):
        arguments += ["--set", setting]
    assert main(arguments) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("exported to runs/spirograph_tiny-simclr/export: ")
    assert eval(last.partition(": ")[2], {"timm": timm}).num_features == 96
    assert json.loads(Path("runs/spirograph_tiny-simclr/recipe.json").read_text())["objective"] == "simclr"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_in_one_line_that_says_how_to_go_on(tmp_path: Path, monkeypatch, capsys, number: int, code: int):
    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda run: os.kill(os.getpid(), number))
        assert main(command(tmp_path / "run")) == code
    empty, line = capsys.readouterr().err.splitlines()  # a progress bar may stand in the first
    assert empty == ""
    stopped, _, again = line.partition("; go on with: star-zoo ")
    assert stopped == f"stopped by {signal.Signals(number).name} after step 2, its checkpoint is written"
    assert main(shlex.split(again)) == 0
    logged = entries(tmp_path / "run")
    assert [e["step"] for e in logged] == [*range(1, STEPS + 1)]
    printed = capsys.readouterr().out
    for epoch in (1, 2):  # the means of the epoch, part of which may have been before the signal
        steps = logged[(epoch - 1) * EPOCH : epoch * EPOCH]
        means = {name: sum(e[name] for e in steps) / EPOCH for name in ("loss", "invariant", "equivariant")}
        values = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        speed = EPOCH * 8 / sum(8 / e["images_per_second"] for e in steps)
        assert f"epoch {epoch} of 2: {values}, img/s {speed:.0f}\n" in printed


def test_an_interrupt_before_or_after_the_steps_says_how_to_go_on(tmp_path: Path, monkeypatch, capsys):
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "evaluate", interrupt)
    assert main(command(tmp_path / "run", settings=(EVALUATED,))) == 130
    stopped, _, again = capsys.readouterr().err.partition("; go on with: star-zoo ")
    assert stopped == "\nstopped by SIGINT after step 0, there is no checkpoint"
    monkeypatch.undo()
    monkeypatch.setattr(card, "write_after_training", interrupt)
    assert main(shlex.split(again)) == 130
    printed = capsys.readouterr()
    assert printed.err == f"\nstopped by SIGINT; go on with: star-zoo {again}"
    assert f"no checkpoint in {tmp_path / 'run'}, so the run starts at step 0\n" in printed.out
    monkeypatch.undo()
    assert main(shlex.split(again)) == 0
    assert "wrote the card that" in capsys.readouterr().out


def test_an_error_of_our_own_names_its_place_and_has_a_traceback_in_development_mode(tmp_path, monkeypatch, capsys):
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Run, "_checkpoint", broken)
    assert main(command(tmp_path / "run")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(
        r"star-zoo: unexpected ZeroDivisionError \(star_training/engine/trainer\.py:\d+\); PYTHONDEVMODE",
        line,
    )
    flags = {name: getattr(sys.flags, name) for name in dir(sys.flags) if name[0] != "_"} | {"dev_mode": True}
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(sys, "flags", SimpleNamespace(**flags))
        main(command(tmp_path / "other"))


def test_python_m_training_is_the_same_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["star_training"])
    monkeypatch.setattr(cli, "program", lambda: sys.exit(7))
    with pytest.raises(SystemExit) as ended:
        import star_training.__main__  # noqa: F401
    assert ended.value.code == 7


def test_two_runs_in_one_process_do_not_disturb_each_other(tmp_path: Path):
    for name in ("one", "two"):
        Run(tiny("epochs=1"), tmp_path / name).train()
    one, two = ([e["loss"] for e in entries(tmp_path / name)] for name in ("one", "two"))
    assert one == two
