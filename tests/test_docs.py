"""What README and cards tell a reader to type works: Python is run, command lines go through the real parser."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import test_finetune_examples
from star_training import recipes
from star_training.cli import main as cli
from star_training.cli.train import pretrain
from star_training.evaluation import protocols as evals
from star_training.pretraining.module import build
from star_training.publishing import card
from star_zoo import save_pretrained
from test_finetune import coloured

README = Path(__file__).parent.parent / "README.md"
EXPORT = Path("star-zoo-quickstart/export")  # the folder that README and quickstart name


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands() -> list[str]:
    lines = "".join(blocks(README.read_text(encoding="utf-8"), "bash")).splitlines()
    return [line.partition("#")[0].strip() for line in lines if re.match(r"star-zoo|torchrun", line)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which README's snippets find the export they name, with its card."""
    where = tmp_path_factory.mktemp("reader")
    coloured(where / "images")
    recipe = recipes.spirograph_tiny()
    torch.manual_seed(0)
    module, _ = build(recipe)
    results = {
        "training": {
            "steps": 1, "images": 64, "seconds": 1.0, "processes": 1, "device": "cpu",
            "versions": {"torch": torch.__version__, "timm": "1"},
        },
        "online": [{"step": 0, "epoch": 0.0, "r2": 0.125}, {"step": 1, "epoch": 1.0, "r2": 0.25}],
    }  # fmt: skip
    save_pretrained(where / EXPORT, module.backbone, module.objective, recipe=recipe.to_dict(), results=results)
    card.write(where / EXPORT, f"local-dir:{EXPORT}")
    return where


def run(code: str, where: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=where, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_the_readme_names_of_star_zoo_is_there_after_its_import_alone(tmp_path: Path):
    names = sorted(set(re.findall(r"\bstar_zoo((?:\.[A-Za-z_]\w*)+)", README.read_text(encoding="utf-8"))))
    assert ".load_objective" in names and ".released.policy" in names
    run("import star_zoo\n" + "\n".join(f"star_zoo{name}" for name in names), tmp_path)


@pytest.mark.parametrize("snippet", blocks(README.read_text(encoding="utf-8"), "python"))
def test_a_python_snippet_of_the_readme_runs(snippet: str, saved: Path) -> None:
    run(snippet, saved)


def test_the_python_snippets_of_a_card_run(saved: Path) -> None:
    snippets = blocks((saved / EXPORT / "README.md").read_text(encoding="utf-8"), "python")
    assert len(snippets) == 3
    for snippet in snippets:
        run(snippet, saved)


def test_a_card_tells_what_its_run_measured(saved: Path) -> None:
    text = (saved / EXPORT / "README.md").read_text(encoding="utf-8")
    assert "| r2 | 0.125 | 0.250 |" in text
    assert "$" not in text


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_readme_is_one_that_the_command_line_takes(line: str) -> None:
    words = shlex.split(line)
    words = words[words.index("star_training") + 1 :] if words[0] == "torchrun" else words[1:]
    arguments = cli.parser().parse_args(words)
    if words[0] == "pretrain":
        pretrain.recipe_of(arguments)


def test_the_readme_names_every_objective_and_no_other() -> None:
    from star_zoo import objectives

    told = re.findall(r"^\| `(\w+)` \|", README.read_text(encoding="utf-8"), re.M)
    assert tuple(sorted(told)) == objectives.known()


def test_the_readme_names_every_protocol_and_no_other() -> None:
    text = README.read_text(encoding="utf-8").partition("## Evaluate")[2]
    assert sorted(re.findall(r"^- `(\w+)`: ", text, re.M)) == sorted(evals.known())


def test_the_readmes_fine_tuning_is_that_which_is_tested() -> None:
    text = README.read_text(encoding="utf-8")
    assert test_finetune_examples.PLAIN in text
    assert test_finetune_examples.TRAIN in text.replace(" \\\n  ", " ")
