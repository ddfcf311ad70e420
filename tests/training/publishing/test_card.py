"""Cards: every number stands in a file beside them, every snippet runs, and nothing is said that isn't known."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import timm
from huggingface_hub import ModelCard

from loopback_client import client
from loopback_hub import LoopbackHub
from markdown_cases import RECORD, blocks
from star_training import recipes
from star_training.cli import main as cli
from star_training.cli.execute import parser
from star_training.cli.train import pretrain
from star_training.publishing import card, dataset_terms
from star_training.settings.base import changed
from star_zoo import load_objective, objectives, save_pretrained
from star_zoo.augmentations import Blur

# --- snippets


def test_the_snippets_of_every_card_run(finished: Path, others: dict[str, Path], tmp_path: Path):
    cards = {name: card.render(folder) for name, folder in {"finished": finished, **others}.items()}
    counts = {name: len(blocks(text, "python")) for name, text in cards.items()}
    assert counts == {"finished": 3, "pairs": 3, "bare": 2, "photos": 2, "classifier": 2}
    code = """
    import sys
    for snippet in sys.argv[1:]:
        exec(compile(snippet, "<card>", "exec"), {"__name__": "__main__"})
    """
    with LoopbackHub() as nothing:
        client(nothing, tmp_path, code, *(snippet for text in cards.values() for snippet in blocks(text, "python")))
        assert nothing.requests == []


def test_the_command_lines_of_a_card_are_those_of_the_program(finished: Path, others: dict[str, Path]):
    lines = [
        line
        for folder, name in ((finished, None), (finished, "hf-hub:me/name"), (others["pairs"], None))
        for block in blocks(card.render(folder, name).partition("## Training")[0], "bash")
        for line in block.splitlines()
    ]
    again = [line for line in lines if line.startswith("star-zoo eval")]
    lines = [line for line in lines if line not in again]
    assert len(lines) == 3 and len(again) == 2
    for line, start in zip(again, (str(finished), "hf-hub:me/name"), strict=True):
        arguments = parser().parse_args(shlex.split(line)[1:])
        found = (arguments.protocol, arguments.model, arguments.data, arguments.seed)
        assert found == ("linear", start, ["stl10"], 3)
    of_hub = lines.pop(1)
    assert of_hub == lines[0].replace(str(finished), "hf-hub:me/name")
    for line, start in zip(lines, (finished, others["pairs"]), strict=True):
        program, *words = shlex.split(line)
        recipe = pretrain.recipe_of(parser().parse_args(words))
        assert (program, recipe.init_from, recipe.name) == ("star-zoo", str(start), "folder")
        assert recipe.backbone == "test_resnet"
        saved = load_objective(start)  # its heads fit
        again = objectives.build(recipe.objective, saved.config["num_features"], recipe.policy, **recipe.objective_args)
        assert again.config == saved.config


# --- the metadata


def test_the_metadata_is_what_the_files_say(finished: Path):
    found = ModelCard(card.render(finished, "hf-hub:me/star_test-7@v1")).data
    assert (found.library_name, found.pipeline_tag) == ("timm", "image-feature-extraction")
    assert {"timm", "transformers", "image-feature-extraction", "star-zoo"} < set(found.tags)
    assert (found.license, found.license_name, found.datasets) == ("other", "not-stated", None)
    assert found.model_name == "star_test-7"
    assert [(r.metric_name, r.metric_value, r.metric_type, r.dataset_name) for r in found.eval_results] == [
        (name, metric["value"], "linear", "stl10") for name, metric in RECORD["metrics"].items()
    ]


def test_two_protocols_on_one_data_set_stay_apart(finished: Path, tmp_path: Path):
    """The Hub takes all results on a data set together; the name of the metric distinguishes them."""
    folder = Path(shutil.copytree(finished, tmp_path / "folder"))
    results = json.loads((folder / "results.json").read_text())
    neighbours = RECORD | {"protocol": "knn", "metrics": {"1-NN top-1": {"value": 0.5, "low": 0.4, "high": 0.6}}}
    (folder / "results.json").write_text(json.dumps(results | {"evaluations": [RECORD, neighbours]}))
    data = ModelCard(card.render(folder)).data
    (model,) = data.to_dict()["model-index"]
    assert len(model["results"]) == 1  # so much for the client's grouping
    metrics = {metric["name"]: metric["value"] for metric in model["results"][0]["metrics"]}
    assert metrics == {"Linear top-1": 0.87654321, "20-NN top-1": 0.7912345, "1-NN top-1": 0.5}


@pytest.mark.parametrize(
    ("source", "hub_id"),
    [
        ("cifar10.parquet", "uoft-cs/cifar10"),
        ("cifar10.parquet:image=img,label=My label", "uoft-cs/cifar10"),
        ("pictures/cats", None),
        (".", None),
    ],
)
def test_a_known_data_set_is_named_with_its_terms(source: str, hub_id: str | None, finished: Path, tmp_path: Path):
    folder = Path(shutil.copytree(finished, tmp_path / "folder"))
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["data"]["source"] = source
    (folder / "recipe.json").write_text(json.dumps(recipe))
    text = card.render(folder)
    assert ModelCard(text).data.datasets == (hub_id and [hub_id])
    # the name of a folder isn't read as a word of the sentence
    shown = {"pictures/cats": "`cats`", ".": "`.`"}.get(source, "CIFAR-10")
    assert f"The pretraining images are {shown}. {dataset_terms.of(source).terms}" in text
    assert f", pretrained without labels on {shown}. " in text


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("torchvision:CIFAR10@root", "CIFAR-10"),
        ("cifar-100-python", "CIFAR-100"),
        ("tiny-imagenet-200", "Tiny ImageNet"),
        ("tinyimagenet100.parquet", "Tiny ImageNet"),
        ("hf:ILSVRC/imagenet-1k", "ImageNet"),
        ("stream:imagenet-train-{000000..000012}.tar", "ImageNet"),
        ("spirograph:32", "Spirographs"),
        ("hf:frgfm/imagenette:320px", "imagenette"),
        ("imagenette2-160", "imagenette2-160"),
        ("imagenet_sketch", "imagenet_sketch"),
        ("imagenet-r", "imagenet-r"),
        ("imagenetv2", "imagenetv2"),
        ("imagenet21k", "imagenet21k"),
        ("cifar10-c", "cifar10-c"),
        ("cifar10.1", "cifar10.1"),
        ("tinyimagenet_novel100", "tinyimagenet_novel100"),
    ],
)
def test_a_relative_of_a_known_data_set_is_another_one(source: str, title: str):
    found = dataset_terms.of(source)
    assert found.title == title and found.known == (title not in (source, "imagenette"))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_snippets_for_images_of_other_channels_run(channels: int, tmp_path: Path):
    model = timm.create_model("test_resnet", num_classes=3, in_chans=channels)
    size = {"input_size": (channels, 32, 32), "mean": (0.5,) * channels, "std": (0.2,) * channels}
    model.pretrained_cfg |= size
    save_pretrained(tmp_path / "model", model, model_args={"in_chans": channels})
    text = card.render(tmp_path / "model", f"local-dir:{tmp_path / 'model'}")
    for snippet in blocks(text, "python"):
        exec(compile(snippet, "<card>", "exec"), {"__name__": "__main__"})


def test_a_licence_is_said_where_there_is_one(finished: Path, tmp_path: Path):
    folder = Path(shutil.copytree(finished, tmp_path / "folder"))
    assert "These weights have no licence." in card.render(folder)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["license"] = "cc-by-nc-4.0"
    (folder / "config.json").write_text(json.dumps(config))
    text = card.render(folder)
    assert "The weights are published under cc-by-nc-4.0." in text
    assert ModelCard(text).data.license == "cc-by-nc-4.0"


# --- what each kind says


def test_the_card_of_a_run(finished: Path):
    text = card.render(finished)
    assert "| Linear top-1, % | stl10 | 5,000 train, 8,000 test | 3 | 87.7 [86.1, 89.2] |" in text
    assert "| 20-NN top-1, % | stl10 | 5,000 train, 8,000 test | 3 | 79.1 |" in text
    assert "![nearest neighbours](nearest_neighbours.png)" in text
    assert "The heads (2 experts) and the augmentation policy" in text
    assert "timm's test_resnet, pretrained without labels on Spirographs. " in text
    assert "no classifier" in text and "$" not in text and "\n\n\n" not in text
    results = json.loads((finished / "results.json").read_text())
    for metric, value in results["online"][1].items():
        if metric not in ("step", "epoch"):
            assert f"| {metric} | {results['online'][0][metric]:.3f} | {value:.3f} |" in text


def test_the_card_of_a_released_checkpoint(converted: Path):
    text = (converted / "README.md").read_text()
    assert text == card.render(converted)
    sha = json.loads((converted / "results.json").read_text())["released"]["sha256"]
    assert f"Converted from the authors' released `ckpt-200.pth` (sha256 `{sha}`)." in text
    assert "The weights are the authors' own; their repository states no licence." in text
    assert "apache" not in text and ModelCard(text).data.license_name == "not-stated"
    assert "The heads (3 experts) and" in text and "Nothing was measured." in text and "STL-10" in text
    assert "timm's resnet18" in text and "11.2 million" in text and "96 px" in text


def test_the_cards_of_what_less_is_known_of(others: dict[str, Path]):
    texts = {name: card.render(folder) for name, folder in others.items()}
    bare = texts["bare"]
    assert "This model was saved without heads." in bare and "\ntimm's test_resnet.\n" in bare
    assert "Nothing was measured." in bare and "Not recorded." in bare
    assert "without labels" not in bare and "star-zoo pretrain" not in bare
    assert "with a classifier of 7 classes" in texts["classifier"]
    assert "The heads and the augmentation policy" in texts["pairs"] and "experts" not in texts["pairs"].split("## ")[2]
    assert "on `cats`.\n" in texts["photos"] and "are `cats`. Their terms are not known" in texts["photos"]
    assert "pictures" not in texts["photos"].partition("## Training")[0]  # after which a command has the path
    for text in texts.values():
        assert "$" not in text and "\n\n\n" not in text and ModelCard(text).data.eval_results is None


def test_a_card_names_the_runs_before_and_the_commands_of_recipes_as_they_stand(finished: Path, tmp_path: Path):
    folder = Path(shutil.copytree(finished, tmp_path / "folder"))
    results = json.loads((folder / "results.json").read_text())
    first = recipes.find("cifar10_resnet10t").published()
    second = recipes.find("cifar10_resnet10t_48px").published() | {"init_from": "the_first"}
    first |= {"precision": "no", "channels_last": False}  # what the runs chose
    second |= {"precision": "bf16", "channels_last": True}
    for recipe in (first, second):
        recipe["data"]["source"] = "cifar10.parquet"
        recipe["run"]["workers"] = 0  # which changes no number
    start = {"recipe": first, "training": results["training"] | {"images": 12345}}
    (folder / "recipe.json").write_text(json.dumps(second))
    (folder / "results.json").write_text(json.dumps(results | {"start": start}))
    text = card.render(folder)
    made = text.partition("## Training")[2]
    assert [line for block in blocks(made, "bash") for line in block.splitlines()] == [
        "star-zoo pretrain cifar10_resnet10t --objective star --data cifar10.parquet --set precision=no "
        "--set channels_last=false",
        "star-zoo pretrain cifar10_resnet10t_48px --objective star --data cifar10.parquet --init-from the_first "
        "--set precision=bf16",
    ]
    assert "momentum, float32; `results.json`" in made and "momentum, bf16; `recipe.json`" in made
    assert "timm's test_resnet, pretrained without labels on CIFAR-10, continued from `the_first`. " in text
    assert made.index("12,345 images") < made.index("It starts from `the_first`.") < made.rindex("72.0 minutes")
    assert made.index("`results.json` has all settings.") < made.index("`recipe.json` has all settings.")
    assert "replace the names of images" in made
    plain = card.render(finished)
    assert "It starts from" not in plain and "--set epochs=1" in plain and "No command" not in plain

    ours = recipes.find("cifar10_resnet10t_48px")
    policies = [ours.policy.including(Blur(5, p=0.25)), changed(ours, {"policy.augmentations.Crop.size": 40}).policy]
    changes = [{"epochs": 3}, {"backbone_args": {"a": 1}}, *({"policy": policy.to_dict()} for policy in policies)]
    for change in changes:
        (folder / "recipe.json").write_text(json.dumps(second | change))
        _, line = "".join(blocks(card.render(folder).partition("## Training")[2], "bash")).splitlines()
        again = pretrain.recipe_of(parser().parse_args(shlex.split(line)[1:])).to_dict()
        assert again | {"run": second["run"], "channels_last": True} == json.loads(json.dumps(second | change))
    assert "--set policy.augmentations.Crop.size=40" in line and line.count("--set") == 2
    for change in [{"objective": "mine"}, {"name": "mine"}, {"unknown": 1}]:
        (folder / "recipe.json").write_text(json.dumps(second | change))
        text = card.render(folder)
        assert "star-zoo pretrain cifar10_resnet10t_48px" not in text and "No command is given, because" in text


def test_a_card_says_which_test_images_pretraining_used_and_on_how_many_it_was_evaluated(
    finished: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(finished, tmp_path / "folder"))
    recipe, results = (json.loads((folder / f"{name}.json").read_text()) for name in ("recipe", "results"))
    assert f"of 32 training and {results['online_images']['test']:,} held-out images in a view" in card.render(folder)
    divided = {"test images": "9 of 45 images, a fifth drawn at random, since there are no splits"}
    measured = [RECORD | {"data": name, "settings": divided} for name in ("cats", "dogs")]
    measured.append(RECORD | {"data": "cats", "settings": {"test images": "the data set's own"}, "protocol": "knn"})
    results |= {"evaluations": measured, "online_images": {"train": 1200}}
    (folder / "results.json").write_text(json.dumps(results))
    for source, objective, sentence in (
        ("cats", "star", "cats has no splits: its test images were also among those of pretraining, without labels."),
        ("dogs.parquet", "supervised", "dogs has no splits: its test images were also among those of pretraining."),
        ("elsewhere", "star", None),
    ):
        changed = {"data": {**recipe["data"], "source": source}, "objective": objective}
        (folder / "recipe.json").write_text(json.dumps(recipe | changed))
        text = card.render(folder)
        assert [line for line in text.splitlines() if "has no splits" in line] == [sentence] * (sentence is not None)
        assert "of 1,200 training images in a view" in text


# --- broken files


@pytest.mark.parametrize("name", ["config.json", "recipe.json", "results.json", "heads.json"])
def test_a_file_that_says_something_else_is_one_line(name: str, finished: Path, tmp_path: Path, capsys):
    folder = Path(shutil.copytree(finished, tmp_path / "folder"))
    good = (folder / "README.md").read_text()
    other = ["", "[]", "null", "5", "{", "[" * 100_000, "\x80", '{"data": 1}', '{"online": [1]}']
    other.append('{"evaluations": [1]}')
    refused = 0
    for text in other:
        (folder / name).write_text(text, encoding="latin-1")
        code = cli.main(["card", str(folder)])
        error = capsys.readouterr().err
        assert code in (0, 1) and error.count("\n") == code, text
        if code:
            assert error.startswith(f"star-zoo: cannot make a card from the files in {folder}: ")
            assert (folder / "README.md").read_text() == good
        refused += code
        (folder / "README.md").write_text(good)
    assert refused >= 8
