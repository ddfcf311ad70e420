"""What README and cards tell a reader to type works: Python is run, command lines go through the real parser."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import test_finetune_examples
from star_zoo import save_pretrained
from test_finetune import coloured
from training import card, cli, evals, recipes, reproduction, studies
from training.commands import pretrain
from training.pretrainer import build
from training.report import tables
from training.report.shown import Shown

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
    words = words[words.index("training") + 1 :] if words[0] == "torchrun" else words[1:]
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


RESULTS = README.parent / "hub_cards/cifar10_resnet10t/results.json"
SHOWN = {
    "star_resnet10t.cifar10": "star", "cifar10_resnet10t-equimod": "equimod", "cifar10_resnet10t-star_ss": "star_ss",
    "cifar10_resnet10t-simclr": "simclr", "untrained:star_resnet10t": "untrained",
}  # fmt: skip
METRICS = [
    "Linear top-1", "Linear mean per class", "20-NN top-1", "1-NN top-1",
    "CIFAR-FS 5-way 1-shot", "CIFAR-FS 5-way 5-shot", "FC100 5-way 1-shot", "FC100 5-way 5-shot",
    "5-way 1-shot", "5-way 5-shot", "Linear top-1, 1 % of labels", "Linear top-1, 10 % of labels",
    "mean canonical correlation of z_inv and z_eq", "mean SVCCA correlation of z_inv and z_eq",
    "R2, pair, features", "R2, pair, z_inv", "R2, pair, z_eq",
    "MRR, own predictor, recalibrated", "MRR, fitted predictor, features",
    "cosine, rotation", "cosine, horizontal flip", "cosine, hue", "overlap of the tasks' mean weights",
]  # fmt: skip


def comparison() -> str:
    """README's table, made from the result file."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    models = [
        Shown(label, None, [], [r for r in results["evaluations"] if r["model"] == model])
        for model, label in SHOWN.items()
    ]
    table = tables.compare(models, METRICS)
    costs = [results["runs"].get(model) for model in SHOWN]
    epochs = ["epochs", "cifar10", *(str(c["steps"] // (50_000 // 256)) if c else "0" for c in costs)]
    minutes = ["minutes", "cifar10", *(f"{c['seconds'] / 60:.0f}" if c else "0" for c in costs)]
    return tables.markdown(tables.Table("", table.head, [epochs, minutes, *table.rows]))


def test_the_readmes_numbers_are_those_of_the_result_file() -> None:
    expected = comparison()
    assert len(expected.splitlines()) > 30
    assert expected in README.read_text(encoding="utf-8"), expected


def test_the_readmes_fine_tuning_is_that_which_is_tested() -> None:
    text = README.read_text(encoding="utf-8")
    assert test_finetune_examples.PLAIN in text
    assert test_finetune_examples.TRAIN in text.replace(" \\\n  ", " ")


BENCHMARKS = README.parent / "hub_cards/benchmarks"


def speed() -> str:
    """README's table of `star-zoo bench pretrain`, made from the records of its runs."""
    rows = [
        "| size | run | ours | released style | limit | share of the limit | times the released style |",
        "| --- " * 7 + "|",
    ]
    found = [
        json.loads(path.read_text(encoding="utf-8"))["sizes"] for path in sorted(BENCHMARKS.glob("pretrain_*.json"))
    ]
    for name in found[0]:
        for number, sizes in enumerate(found, 1):
            told = sizes[name]
            rates = (f"{told['samples per second'][each]:.1f}" for each in ("ours", "released style", "limit"))
            ratios = (
                "{median:.2f} ({least:.2f} to {most:.2f})".format(**told[each])
                for each in ("share of the limit", "times the released style")
            )
            rows.append("| " + " | ".join((name, str(number), *rates, *ratios)) + " |")
    return "\n".join(rows)


def test_the_readmes_speeds_are_those_that_were_recorded() -> None:
    assert speed() in README.read_text(encoding="utf-8")


def test_the_readmes_rate_of_decoding_is_the_one_that_was_recorded() -> None:
    found = json.loads((BENCHMARKS / "data.json").read_text(encoding="utf-8"))
    small = sorted((told for size, told in found.items() if size.startswith("500 x ")), key=lambda told: told["ratio"])
    rates = " to ".join(f"{rate:.0f}" for rate in sorted(told["ours, images/s"] for told in small))
    text = " ".join(README.read_text(encoding="utf-8").split())
    assert f"views of {rates} JPEGs of 500 px a second" in text
    assert f"{small[0]['ratio']:.1f} to {small[1]['ratio']:.1f} times as fast as PIL's plain way" in text


STUDY = README.parent / "hub_cards/cifar10_small"


def test_the_readmes_study_is_that_of_its_results(tmp_path: Path) -> None:
    shutil.copytree(STUDY / "results", tmp_path / "results")
    short, _, _, claims = reproduction.tell(studies.find("cifar10_small"), tmp_path)
    text = README.read_text(encoding="utf-8")
    assert tables.markdown(short) in text and tables.markdown(claims) in text
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == (STUDY / "table.md").read_text(encoding="utf-8")


def test_every_result_tells_the_code_that_made_it() -> None:
    names = {reproduction.name_of(*run) for run in reproduction.runs(studies.find("cifar10_small"))}
    paths = list((STUDY / "results").glob("*.json"))
    assert {path.stem for path in paths} == names
    for path in paths:
        told = json.loads(path.read_text(encoding="utf-8"))
        assert told["training"]["versions"]["commit"] and all(r["versions"]["commit"] for r in told["evaluations"])
        assert path.stat().st_size < 50_000
