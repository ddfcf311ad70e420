"""The pages' snippets work: Python is run, command lines go through the real parser, links lead somewhere."""

import json
import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_cases import PLAIN, TRAIN, coloured
from finetune_cases import tiny as tiny_tuning
from runs import EVALUATED, finish, pictures, plain, start, tiny
from star_training import recipes, studies
from star_training.cli import COMMANDS
from star_training.cli import main as cli
from star_training.cli.execute import parser
from star_training.cli.train import pretrain
from star_training.engine import logging as log
from star_training.engine import results
from star_training.evaluation import protocols as evals
from star_training.finetuning.run import FineTuning
from star_training.pretraining.module import build
from star_training.pretraining.run import Run
from star_training.publishing import card
from star_training.studies import run as reproduction
from star_zoo import load_objective, objectives, save_pretrained
from star_zoo.objectives import _papers
from star_zoo.objectives._agreements import AGREEMENTS

ROOT = Path(__file__).parents[2]
README, GUIDE = ROOT / "README.md", ROOT / "training/README.md"
PAGES = (README, GUIDE, *sorted(ROOT.glob("hub_cards/**/README.md")))
EXPORT = Path("star-zoo-quickstart/export")  # the folder that pages and quickstart name
# the files that README and the guide show whole
OWN = ("my_package/my_objective.py", "my_package/my_network.py", "my_package/my_study.py")


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands() -> list[str]:
    lines = "".join("".join(blocks(read(page), "bash")) for page in PAGES).splitlines()
    found = [line.partition("#")[0].strip() for line in lines if re.match(r"star-zoo|torchrun", line)]
    return list(dict.fromkeys(found))


def snippets() -> list[Any]:
    return [
        pytest.param(snippet, id=f"{named(page)}-{number}")
        for page in PAGES
        for number, snippet in enumerate(blocks(read(page), "python"))
    ]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the objective of README, the network and the study of the guide, as a package."""
    shown = [snippet for page in (README, GUIDE) for snippet in blocks(read(page), "python")]
    (tmp_path / "my_package").mkdir()
    for name in OWN:
        (code,) = (snippet for snippet in shown if snippet.startswith(f"# {name}\n"))
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_package", *(path.removesuffix(".py").replace("/", ".") for path in OWN)):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the snippets find the export and the images they name, with a card."""
    where = tmp_path_factory.mktemp("reader")
    coloured(where / "images")
    recipe = recipes.find("spirograph_tiny")
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
    exit_code, _, errors = finish(start([], program=("-c", code), cwd=where))
    assert exit_code == 0, errors


def test_the_pages_are_these() -> None:
    assert [named(page) for page in PAGES] == [
        "README.md", "training/README.md", "hub_cards/README.md", "hub_cards/backbones_small/README.md",
        "hub_cards/benchmarks/README.md", "hub_cards/cifar10_small/README.md", "hub_cards/continued_small/README.md",
        "hub_cards/invariances_small/README.md",
        "hub_cards/methods_small/README.md", "hub_cards/symmetry_small/README.md",
        "hub_cards/why_correlated/README.md",
    ]  # fmt: skip


def test_what_the_pages_name_of_star_zoo_is_there_after_its_import_alone(tmp_path: Path):
    names = {name for page in PAGES for name in re.findall(r"(?<!from )\bstar_zoo((?:\.[A-Za-z_]\w*)+)", read(page))}
    assert ".load_objective" in names and ".released.policy" in names
    code = "import star_zoo\n" + "\n".join(f"star_zoo{name}" for name in sorted(names))
    plain(code, cwd=tmp_path)  # nothing of ours is imported yet


def test_the_front_page_cites_the_paper_as_cards_do():
    assert f"```bibtex\n{_papers.STAR.bibtex}\n```" in read(README)


def test_lines_have_at_most_120_characters_outside_of_code_and_tables() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", read(page), flags=re.M | re.S)
        lines = [line for line in text.splitlines() if not line.startswith("|")]
        # a link isn't broken
        assert [line for line in lines if len(line) > 120 and not re.fullmatch(r"\s*!?\[[^]]+\]\(\S+\)\S?", line)] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", read(page)) if "://" not in link]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", read(target), flags=re.M | re.S), re.M)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings], link


@pytest.mark.parametrize("snippet", snippets())
def test_a_python_snippet_of_a_page_runs(snippet: str, saved: Path) -> None:
    run(snippet, saved)


def test_the_objective_of_the_readme_is_trained_and_comes_back(package: Path) -> None:
    pictures(package / "images", 16)
    (line,) = (line for line in commands() if "my_package.my_objective" in line)
    settings = (
        "backbone=test_resnet", "policy.augmentations.0.size=32", "epochs=2", "batch_size=8", "run.workers=0",
        "objective_args.embed_dim=64", "precision=no",
    )  # fmt: skip
    words = [word.replace("path/to/images", "images") for word in shlex.split(line)[1:]]
    assert cli.main([*words, "--out", "run", *(part for setting in settings for part in ("--set", setting))]) == 0
    objective = load_objective("run/export")
    assert objective.config["objective"] == "my_package.my_objective"
    features = torch.randn(4, objective.config["num_features"])
    assert objective.eval().embed(features)["z_inv"].shape == (4, 64)


NETWORK = """
import dataclasses
from star_training import recipes
from star_training.cli.main import main

fast = ["--set", "epochs=1", "--set", "batch_size=8", "--set", "run.workers=0", "--set", "precision=no"]
words = [
    ["pretrain", "--resume", "--out", "run"],
    ["finetune", "run", "--data", "images", "--out", "tuned", *fast],
    ["eval", "knn", "tuned", "--data", "images"],
]
assert [main(each) for each in words] == [0, 0, 0]

from my_package import my_network  # which the commands have imported
recipe = dataclasses.replace(recipes.find("folder"), backbone="tiny")
assert recipe.registered().backbone_module == "my_package.my_network"
my_network.Tiny.reset_classifier = lambda self, *_: setattr(self, "head", my_network.nn.Linear(64, 2))
assert main(["eval", "knn", "run", "--data", "images"]) == 1
"""


def test_the_network_of_the_guide_is_pretrained_resumed_fine_tuned_and_evaluated(package: Path) -> None:
    coloured(package / "images", 24, 12)
    (line,) = (line for line in commands() if "my_package.my_network" in line)
    settings = ("policy.augmentations.0.size=32", "epochs=1", "batch_size=8", "run.workers=0", "precision=no")
    words = [word.replace("path/to/images", "images") for word in shlex.split(line)[1:]]
    words += ["--out", "run", *(part for setting in settings for part in ("--set", setting))]
    exit_code, _, errors = finish(start(words, warnings="default", cwd=package))
    assert exit_code == 0, errors
    config = json.loads((package / "run/export/config.json").read_text())
    assert (config["module"], config["pretrained_cfg"]["classifier"]) == ("my_package.my_network", "head")
    exit_code, printed, errors = finish(start([], program=("-c", NETWORK), warnings="default", cwd=package))
    assert exit_code == 0, errors
    assert "run is finished" in printed and "20-NN top-1" in printed
    assert "'run' can't be loaded with the code that my_package.my_network has now: " in errors
    text = (package / "run/export/README.md").read_text(encoding="utf-8")
    assert "--init-from " in text and " --set backbone_module=my_package.my_network" in text
    assert "\nTraining a new classifier:\n" in text and "features_only" not in text


def test_the_study_of_the_guide_can_be_run(package: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["reproduce", "my_package.my_study", "--show"]) == 0
    shown = capsys.readouterr().out
    assert "  mine: my_package.my_objective; 3\n" in shown and "  linear on cifar10, flowers17\n" in shown
    study = studies.find("my_package.my_study")
    for name in study.data:
        pictures(package / name / "train", 8)
        pictures(package / name / "test", 8)
    reproduction.check(study, package)  # builds every method, and finds every data set


def test_the_python_snippets_of_a_card_run(saved: Path) -> None:
    snippets = blocks((saved / EXPORT / "README.md").read_text(encoding="utf-8"), "python")
    assert len(snippets) == 3
    for snippet in snippets:
        run(snippet, saved)


def test_a_card_holds_the_measurements_of_its_run(saved: Path) -> None:
    text = (saved / EXPORT / "README.md").read_text(encoding="utf-8")
    assert "| r2 | 0.125 | 0.250 |" in text
    assert "$" not in text


@pytest.mark.parametrize("line", commands())
def test_a_command_of_a_page_is_one_that_the_command_line_takes(line: str, package: Path) -> None:
    words = shlex.split(line)
    words = words[words.index("star_training") + 1 :] if words[0] == "torchrun" else words[1:]
    arguments = parser().parse_args(words)
    if words[0] == "pretrain" and not arguments.resume:  # else it reads the recipe of the run
        pretrain.recipe_of(arguments)


def test_the_guide_names_every_command() -> None:
    assert {line.split()[1] for line in commands() if line.startswith("star-zoo")} >= COMMANDS.keys() - {
        "list", "quickstart",
    }  # fmt: skip
    assert "`star-zoo list`" in read(GUIDE) and ".venv/bin/star-zoo quickstart\n" in read(README)


def test_the_guide_names_every_objective_and_no_other() -> None:
    table = read(GUIDE).partition("| objective | method |")[2].partition("\n\n")[0]
    assert tuple(sorted(re.findall(r"^\| `(\w+)` \|", table, re.M))) == objectives.known()


def test_the_front_page_counts_the_objectives() -> None:
    assert f"any of {len(objectives.known())} methods" in " ".join(read(README).split())


def test_the_guide_names_every_protocol_and_no_other() -> None:
    text = read(GUIDE).partition("## Evaluate")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^- `(\w+)`: ", text, re.M)) == sorted(evals.known())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of three finished runs: of images with classes, of objects with numbers, of fine-tuning."""
    folder = tmp_path_factory.mktemp("runs")
    crop = 'policy={"augmentations": [{"name": "Crop", "size": 32}], "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}'
    images, short = coloured(folder / "images", 24, 6), ("epochs=1", "objective_args.embed_dim=4", EVALUATED)
    best = "run.keep_best=knn1_top1"
    Run(tiny(*short, f"data.source={images}", crop, best), folder / "classes").train()
    Run(tiny(*short, "data.source=spirograph:80", "batch_size=40"), folder / "numbers").train()
    FineTuning(tiny_tuning(images, "epochs=1", f"model={folder / 'classes'}"), folder / "tuned").train()
    return folder


def test_the_guide_names_every_field_of_a_log_and_no_other(runs: Path) -> None:
    logs = [log.read(path) for path in runs.glob("*/log.jsonl")]
    found = {field for entries in logs for entry in entries for field in entry}
    table = read(GUIDE).partition("| field | every | meaning |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in table.splitlines()[1:])))
    assert len(logs) == 3
    assert found - {"invariant", "equivariant"} == named - {"TERM"}
    assert {"invariant", "equivariant"} <= found


def test_the_guide_names_every_field_of_a_results_file_and_no_other(runs: Path) -> None:
    model, other = str(runs / "classes"), "untrained:resnet10t"
    data = ["--data", str(runs / "images")]
    assert cli.main(["eval", "knn", model, *data]) == 0
    assert cli.main(["compare", model, other, *data, "--protocol", "knn"]) == 0
    held = [results.read(path) for path in runs.glob("*/export*/results.json")]
    records = [record for part in held for record in part.get("evaluations", [])]
    comparisons = [record for part in held for record in part.get("comparisons", [])]
    rows = [row for record in comparisons for row in record["rows"]]
    found = {
        **{part: fields(each[part] for each in held if part in each) for part in ("training", "best", "start")},
        "pretrained": fields(model for part in held for model in part.get("pretrained", {}).values()),
        "evaluations": fields(records),
        "metrics": fields(metric for record in records for metric in record["metrics"].values()),
        "comparisons": fields(comparisons),
        "rows": fields(rows) | fields(row["difference"] for row in rows),
    }
    table = read(GUIDE).partition("| part | fields |")[2].partition("\n\n")[0]
    named = {part: set(re.findall(r"`([\w ]+)`", words)) for part, words in re.findall(r"\| `(\w+)` \| (.*) \|", table)}
    elsewhere = {"finetune", "start", "listed"}  # of a start that was fine-tuned or had its own, and of `redundancy`
    assert found == {part: named[part] - elsewhere for part in found}
    assert fields(held) | {"released"} == named.keys() - {"metrics", "rows"}


def fields(records: Iterable[dict[str, Any]]) -> set[str]:
    """Returns the names of all fields of some records."""
    return {name for record in records for name in record}


def test_the_guide_names_every_agreement_and_no_other() -> None:
    text = read(GUIDE).partition("agree=NAME`")[2].partition("\n#")[0]
    assert set(re.findall(r"`(\w+)`", text)) == set(AGREEMENTS)


def test_the_guide_names_every_variable_of_the_environment_and_no_other() -> None:
    files = [path for folder in ("star_zoo", "training") for path in (ROOT / folder).rglob("*.py")]
    used = {name for path in files for name in re.findall(r"environ\S*?\b(STAR_ZOO_[A-Z_]+)", read(path))}
    table = read(GUIDE).partition("## Environment variables")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(STAR_ZOO_[A-Z_]+)", table, re.M)) == used != set()


def test_the_guides_fine_tuning_is_that_which_is_tested() -> None:
    text = read(GUIDE)
    assert PLAIN in text
    assert TRAIN in text.replace(" \\\n  ", " ")
