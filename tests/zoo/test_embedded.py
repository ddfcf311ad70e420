"""The models that travel in the package: each has its row, its card and results with the code that made them."""

import json
import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from loopback_client import client
from loopback_hub import LoopbackHub
from markdown_cases import blocks
from pages import CARDS
from star_training.cli import main as cli
from star_training.cli.execute import parser
from star_training.cli.train import pretrain
from star_training.pretraining.recipe import Recipe
from star_training.publishing import card
from star_zoo import objectives, save_pretrained, zoo
from twins import POLICY

TAGS = sorted(path.name for path in zoo.EMBEDDED.iterdir())


def read_json(tag: str, file: str) -> dict:
    return json.loads((zoo.EMBEDDED / tag / file).read_text(encoding="utf-8"))


def test_a_card_lies_there_for_every_model_of_the_package_and_no_other():
    assert [path.stem for path in sorted(CARDS.glob("star_*.md"))] == TAGS != []


@pytest.mark.parametrize("tag", TAGS)
def test_the_row_is_what_the_model_was_made_with(tag: str):
    row, made = timm.get_pretrained_cfg(tag), read_json(tag, "config.json")["pretrained_cfg"]
    policy = Recipe.from_dict(read_json(tag, "recipe.json")).policy
    assert row.input_size[-1] == made["input_size"][-1] == policy.size
    assert row.license == made["license"]
    assert row.mean == tuple(made["mean"]) == policy.mean
    assert row.std == tuple(made["std"]) == policy.std


@pytest.mark.parametrize("tag", TAGS)
def test_the_card_is_what_the_files_say(tag: str, capsys: pytest.CaptureFixture[str]):
    """`star-zoo card TAG > hub_cards/TAG.md` writes it anew."""
    assert cli.main(["card", tag]) == 0
    text = capsys.readouterr().out
    assert text == card.render(zoo.EMBEDDED / tag, tag) == (CARDS / f"{tag}.md").read_text(encoding="utf-8")
    assert f"# Model card for {tag}\n" in text and "With timm, after importing star_zoo" in text
    for block in blocks(text, "bash"):
        for line in block.splitlines():
            arguments = parser().parse_args(shlex.split(line)[1:])
            if line.startswith("star-zoo pretrain"):
                pretrain.recipe_of(arguments)
            else:
                assert re.match(rf"star-zoo (eval \w+|compare) {re.escape(tag)} ", line), line


def test_the_snippets_of_the_cards_run_without_a_network(tmp_path: Path):
    snippets = [snippet for tag in TAGS for snippet in blocks((CARDS / f"{tag}.md").read_text("utf-8"), "python")]
    assert len(snippets) == 3 * len(TAGS)
    code = """
    import sys
    for snippet in sys.argv[1:]:
        exec(compile(snippet, "<card>", "exec"), {"__name__": "__main__"})
    """
    with LoopbackHub() as nothing:
        client(nothing, tmp_path, code, *snippets)
        assert nothing.requests == []


@pytest.mark.parametrize("tag", TAGS)
def test_every_number_has_the_code_that_made_it(tag: str):
    results = read_json(tag, "results.json")
    assert results["training"]["versions"]["commit"] and results["evaluations"]
    assert all(record["versions"]["commit"] for record in results["evaluations"])
    assert {record["model"] for record in results["evaluations"]} == {tag}


def test_a_tag_without_weights_has_no_card(capsys: pytest.CaptureFixture[str]):
    tag = "star_resnet18.stl10"
    assert cli.main(["card", tag]) == 1
    assert f"'{tag}' is no folder on this machine; pass a run or a saved folder" in capsys.readouterr().err
    assert cli.main(["card", "star_resnet10"]) == 1
    assert "did you mean 'star_resnet10t'" in capsys.readouterr().err


def test_what_is_embedded_is_half_as_large_and_under_the_row_s_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tag = "star_resnet10t.cifar10"
    model = timm.create_model("star_resnet10t", pretrained=False)
    folder = save_pretrained(tmp_path / "model", model, objectives.build("star", 512, POLICY, num_experts=2, hidden=8))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["pretrained_cfg"]["license"]  # as in what a run exports
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setattr(zoo, "EMBEDDED", tmp_path / "weights")
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "home"))
    assert cli.main(["install", str(folder), tag, "--embed"]) == 0
    assert read_json(tag, "config.json")["pretrained_cfg"]["license"] == "apache-2.0"
    for file in ("model.safetensors", "heads.safetensors"):
        whole, half = load_file(folder / file), load_file(zoo.EMBEDDED / tag / file)
        assert whole.keys() == half.keys()
        for name, tensor in whole.items():
            expected = tensor.half() if tensor.is_floating_point() else tensor
            assert half[name].dtype == expected.dtype and torch.equal(half[name], expected), name
    found = timm.create_model(tag, pretrained=True).state_dict()
    assert all(torch.equal(found[name], tensor.half().to(tensor.dtype)) for name, tensor in model.state_dict().items())


def test_what_doesn_t_fit_or_has_no_row_is_not_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    model = timm.create_model("star_resnet10t", pretrained=False)
    torch.nn.init.constant_(model.bn1.weight, 70_000)
    folder = save_pretrained(tmp_path / "model", model)
    monkeypatch.setattr(zoo, "EMBEDDED", tmp_path / "weights")
    for tag, said in (
        ("star_resnet10t.cifar10", "bn1.weight holds numbers up to 70000; float16's maximum is 65504"),
        ("star_resnet10t.no_row", "'star_resnet10t.no_row' has no row with a licence; add one"),
    ):
        assert cli.main(["install", str(folder), tag, "--embed"]) == 1
        assert said in capsys.readouterr().err
        assert not (zoo.EMBEDDED / tag / "model.safetensors").exists()
