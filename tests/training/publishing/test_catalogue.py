"""`star-zoo list`: every tag with where its weights are, and only what its files say."""

import json
from pathlib import Path

import pytest
import timm
import torch

from star_catalog import tags
from star_training.cli.main import main
from star_training.publishing.listing import _row, rows
from star_zoo import install, objectives, save_pretrained, store, zoo
from twins import POLICY

EMBEDDED = {
    "star_resnet10t.cifar10": ("star", "CIFAR-10"),
    "star_resnet10t.tin100": ("star", "100 classes of Tiny ImageNet, and CIFAR-100"),
    "star_resnet10t.cifar10_simclr": ("simclr", "CIFAR-10"),
    "star_resnet18.tin100": ("star", "100 classes of Tiny ImageNet, and CIFAR-100"),
    "star_convnext_atto.tin100": ("star", "100 classes of Tiny ImageNet, and CIFAR-100"),
}
MINE = "star_resnet10t.mine"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "home"))


def listed() -> dict[str, tuple[str, ...]]:
    return {tag: rest for tag, *rest in map(tuple, rows())}


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return timm.create_model("star_resnet10t.cifar10")


def test_every_tag_is_listed_with_where_its_weights_are(capsys: pytest.CaptureFixture[str]):
    found = listed()
    assert list(found) == sorted(tags.TAGS) == sorted(timm.list_models("star_*", include_tags=True))
    for tag, (method, title) in EMBEDDED.items():
        where, megabytes, licence, objective, data, _ = found.pop(tag)
        files = (zoo.EMBEDDED / tag).iterdir()
        assert (where, licence, objective, data) == ("embedded", "apache-2.0", method, title)
        assert float(megabytes) == pytest.approx(sum(file.stat().st_size for file in files) / 1e6, abs=0.05)
    assert {tuple(row[:3]) for row in found.values()} == {("none yet", "-", "-")}
    assert main(["list"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["tag", "weights", "MB", "licence", "objective", "data", "measured"]
    assert [line.split()[0] for line in lines] == sorted(tags.TAGS)
    column = head.index("licence")
    assert {line[column - 1] for line in lines} == {" "}  # in columns


def test_a_pinned_tag_is_on_the_hub(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(tags.TAGS["star_resnet18.stl10"], "hf_hub_id", "star-zoo/star_resnet18.stl10@v1.0")
    assert listed()["star_resnet18.stl10"][0] == "Hub: star-zoo/star_resnet18.stl10@v1.0"
    monkeypatch.setenv("STAR_ZOO_HUB_ORG", "mine")  # whose repositories nobody has pinned
    assert listed()["star_resnet18.stl10"][0] == "none yet"


def test_what_is_installed_says_what_its_files_say(model: torch.nn.Module, tmp_path: Path):
    metrics = {
        name: {"value": k / 7, "low": None, "high": None} for k, name in enumerate(("a", "b", "20-NN top-1", "d", "e"))
    }
    recipe = {"data": {"source": "pictures/birds.parquet"}}
    results = {"evaluations": [{"protocol": "knn", "seed": 0, "data": "some birds", "metrics": metrics}]}
    install(save_pretrained(tmp_path / "m", model, recipe=recipe, results=results), MINE)
    where, megabytes, licence, objective, data, measured = listed()[MINE]
    assert (where, licence, objective, data) == ("local", "apache-2.0", "-", "birds.parquet")
    assert measured == "a 0 (some birds), b 0.143 (some birds), 20-NN top-1 28.6 % (some birds), 2 more"
    size = sum(path.stat().st_size for path in (tmp_path / "m").iterdir())
    assert megabytes == f"{size / 1e6:.1f}"


def test_a_licence_that_nobody_stated_is_not_ours(model: torch.nn.Module, tmp_path: Path):
    save_pretrained(tmp_path, model)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["pretrained_cfg"]["license"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    install(tmp_path, MINE)
    assert listed()[MINE][2] == "not stated"
    assert "license" not in timm.create_model(MINE).pretrained_cfg


def test_rows_are_as_timm_sees_them(model: torch.nn.Module, tmp_path: Path):
    """timm builds each model; the list builds those alone whose architecture or arguments are in no table."""
    narrow = {"channels": [8, 8, 8, 8], "stem_width": 8}
    for name, built, arguments in (
        ("star_resnet10t.mine", model, {}),
        ("star_resnet10t.narrow", timm.create_model("star_resnet10t", **narrow), narrow),
        ("star_resnet10t.wrong", model, {"nothing": 1}),
        ("star_test_resnet.mine", timm.create_model("test_resnet"), {}),
        ("star_nothing.mine", model, {}),
    ):
        save_pretrained(store.place(name), built, model_args=arguments)
    broken = set()
    for tag, (where, _, licence, _, data, _) in listed().items():
        try:
            cfg = timm.create_model(tag, device="meta").pretrained_cfg
        except (RuntimeError, TypeError):
            broken.add(tag)
            assert where == f"broken: {store.folder(tag)}"
        else:
            assert licence == ("-" if where == "none yet" else cfg["license"])
            assert where == "embedded" or data == (cfg.get("description") or "-")
    assert broken == {"star_resnet10t.wrong", "star_nothing.mine", "star_test_resnet.mine"}


OTHER = ["", "[]", "null", "5", "\x80", "[" * 100_000, '{"data": 3}', '{"data": {"source": 3}}', '{"evaluations": 3}']
OTHER += ['{"objective": ["star"]}', '{"objective": "another"}']
OTHER += ['{"evaluations": [{"metrics": {"a": 1}}]}', '{"evaluations": [{"data": 1, "metrics": {"a": {"value": ""}}}]}']


def test_files_that_say_something_else_leave_a_row_without_it(model: torch.nn.Module, tmp_path: Path):
    install(save_pretrained(tmp_path, model), MINE)
    for text in OTHER:
        for name in ("heads.json", "recipe.json", "results.json"):
            (store.folder(MINE) / name).write_text(text, encoding="latin-1")
        row = _row(MINE)
        assert (row[1], *row[4:]) == ("local", "-", "-", "-"), text


def test_heads_count_as_what_they_weigh(model: torch.nn.Module, tmp_path: Path):
    install(save_pretrained(tmp_path / "bare", model), MINE)
    bare = float(listed()[MINE][1])
    objective = objectives.build("simclr", 512, POLICY)
    install(save_pretrained(tmp_path / "full", model, objective), MINE)
    size = (tmp_path / "full" / "heads.safetensors").stat().st_size
    assert listed()[MINE][3] == "simclr"
    assert float(listed()[MINE][1]) - bare == pytest.approx(size / 1e6, abs=0.15)
