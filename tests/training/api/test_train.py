"""`star_training.pretrain` and `finetune` train as the commands do, and return the finished run."""

import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm

import star_training
from finetune_cases import coloured
from runs import EVALUATED, TINY, assert_equal, at_step, command, exported, tiny
from star_training.api.finetune import planned
from star_training.api.trained import Trained
from star_training.cli.main import main
from star_training.engine.signals import Stopped
from star_training.settings.base import changed, override, parse_changes

SETTINGS: dict[str, Any] = dict(parse_changes((*TINY, EVALUATED)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    out = tmp_path_factory.mktemp("python") / "run"
    settings = {path: value for path, value in SETTINGS.items() if path not in ("backbone", "data.source")}
    return star_training.pretrain(
        "spirograph_tiny", data="spirograph:32", backbone="test_resnet", epochs=2, out=out, settings=settings
    )


def test_importing_the_package_and_its_functions_imports_nothing_heavy():
    code = (
        "import sys\nbefore = set(sys.modules)\nimport star_training\nstar_training.pretrain, star_training.finetune\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    run = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    assert set(run.stdout.split()) == {"star_training", "star_catalog"}


def test_the_package_has_its_functions_and_no_other_name():
    assert set(star_training.__all__) <= set(dir(star_training))
    assert all(callable(getattr(star_training, name)) for name in star_training.__all__)
    with pytest.raises(AttributeError, match="module 'star_training' has no attribute 'pretrian'"):
        star_training.pretrian  # noqa: B018


def test_a_run_in_python_is_that_of_the_command(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(command(tmp_path / "run", settings=("epochs=2", EVALUATED))) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(trained).replace(str(trained.folder), f"{tmp_path / 'run'}")
    assert_equal(exported(trained.folder), exported(tmp_path / "run"))
    ours, theirs = (json.loads((folder / "recipe.json").read_text()) for folder in (trained.folder, tmp_path / "run"))
    assert ours == theirs


def test_a_trained_run_holds_its_metrics_its_log_and_its_model(trained: Trained):
    held = json.loads((trained.export / "results.json").read_text())
    assert trained.metrics == {name: held["online"][-1][name] for name in ("r2", "rankme")}
    lines = (trained.folder / "log.jsonl").read_text().splitlines()
    assert trained.log == [json.loads(line) for line in lines] and len(lines) > 8
    assert timm.create_model(f"local-dir:{trained.export}", pretrained=True).num_features == 96
    shown = trained._repr_markdown_()
    assert f"- r2: {trained.metrics['r2']:.4g}\n" in shown and f"local-dir:{trained.export}" in shown


def test_the_printed_call_is_python_whatever_the_folder_is_called():
    run = Trained(Path("""we"ird 'q' \\"""), {})
    (line,) = ast.parse(str(run).partition(": ")[2]).body
    assert isinstance(line, ast.Expr) and isinstance(line.value, ast.Call)
    assert ast.literal_eval(line.value.args[0]) == f"local-dir:{run.export}"


def test_settings_are_those_of_the_command_line():
    texts = ("optimizer.lr=0.5", "policy.mean=[0.1,0.2,0.3]", "precision=no", "optimizer.clip=null", "run.workers=auto")
    settings = {
        "optimizer.lr": 0.5, "policy.mean": (0.1, 0.2, 0.3), "precision": "no", "optimizer.clip": None,
        "run.workers": "auto",
    }  # fmt: skip
    made = changed(tiny(), settings)
    assert made == override(tiny(), texts) != tiny()
    assert changed(tiny(), settings.items()) == made


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer.lrr": 1}, "optimizer.lrr: field 'lrr' not found; did you mean 'lr'?"),
        ({"optimizer.lr": "0.1"}, "optimizer.lr is '0.1'; it must be a number"),
        ({"optimizer.lr": Path("a")}, "optimizer.lr is PosixPath('a'); pass a number, text, True"),
        ({"epochs": 2.5}, "epochs is 2.5; it must be a whole number"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(settings: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(ValueError) as raised:
        star_training.pretrain("spirograph_tiny", out=tmp_path / "run", settings=settings)
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_an_interrupt_is_stopped_with_a_checkpoint_and_the_way_on(trained: Trained, tmp_path: Path, monkeypatch):
    out, given = tmp_path / "run", {"backbone": "test_resnet", "epochs": 2, "settings": SETTINGS}
    with monkeypatch.context() as patch, pytest.raises(Stopped) as raised:
        at_step(patch, 5, lambda run: os.kill(os.getpid(), signal.SIGINT))
        star_training.pretrain("spirograph_tiny", out=out, **given)
    line = str(raised.value)
    assert line.startswith(
        "stopped by SIGINT after step 5, its checkpoint is written; go on with star_training.pretrain"
    )
    assert raised.value._render_traceback_() == [line]  # the whole output of a notebook
    again = eval(line.partition("go on with ")[2], {"star_training": star_training})
    assert_equal(exported(again.folder), exported(trained.folder))
    assert again.metrics == trained.metrics


def test_finetune_returns_the_classifier_which_stands_for_its_folder(tmp_path: Path):
    images = coloured(tmp_path / "images", train=24, test=6)
    small = {"views.size": 32, "batch_size": 8, "run.workers": 0, "precision": "no"}
    tuned = star_training.finetune(
        "untrained:test_resnet", data=images, epochs=1, fraction=0.5, out=tmp_path / "a", settings=small
    )
    (record,) = json.loads((tuned.export / "results.json").read_text())["evaluations"]
    assert tuned.metrics == {"finetune_top1_50pct": record["metrics"]["finetune_top1_50pct"]["value"]}
    assert record["settings"]["epochs"] == 1 and record["settings"]["data"]["fraction"] == 0.5
    assert planned(model=tuned, data=images)[0].model == str(tmp_path / "a")
