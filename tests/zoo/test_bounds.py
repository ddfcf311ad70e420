"""Files and settings that ask for more than there is: refused before anything is allocated or built."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from memory import at_most
from star_training.models.create import create
from star_training.pretraining.module import build
from star_training.publishing.card import render
from star_training.recipes.cifar10 import cifar10_resnet10t
from star_zoo import NotAvailable, bounds, hub, install, load_objective, objectives, save_pretrained, wrappers
from star_zoo.objectives import _teacher
from star_zoo.wrapped_model import savable
from twins import POLICY, backbone

MUCH = 10**9


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = backbone()
    objective = objectives.build("star", model.num_features, POLICY, num_experts=2, hidden=8)
    return save_pretrained(tmp_path_factory.mktemp("good"), model, objective)


def changed(good: Path, tmp_path: Path, file: str, change: Callable[[Any], Any]) -> Path:
    folder = Path(shutil.copytree(good, tmp_path / "folder"))
    data = json.loads((folder / file).read_text())
    change(data)
    (folder / file).write_text(json.dumps(data))
    return folder


def arguments(**given: Any) -> Callable[[Any], Any]:
    return lambda config: config.setdefault("model_args", {}).update(given)


def preprocessing(**given: Any) -> Callable[[Any], Any]:
    return lambda config: config["pretrained_cfg"].update(given)


CONFIGS = {
    "input_size": (preprocessing(input_size=[3, 100_000, 100_000]), r"has input_size \(3, 100000, 100000\)"),
    "image": (
        lambda config: (arguments(in_chans=3000)(config), preprocessing(input_size=[3000, 4096, 4096])(config)),
        "50,331,648,000 values; the maximum is 268,435,456",
    ),
    "maps": (
        lambda config: (arguments(stem_width=800)(config), preprocessing(input_size=[3, 2048, 2048])(config)),
        r"computes a map of 1,677,721,600 values for one image.*\(3, 2048, 2048\): use a smaller one",
    ),
    "crop_pct": (preprocessing(crop_pct=1e-9), "has crop_pct 1e-09; it must be from 0.1 to 10"),
    "layers": (arguments(layers=[MUCH, 1, 1, 1]), r"model_args.layers.0 is 1000000000; .* at most 1,048,576"),
    "loops": (arguments(layers=[1, 1, 1, 2**20]), r"declares parameters and buffers of more than \d\d,\d{3},\d{3} val"),
    "channels": (arguments(channels=[10**7] * 4), "model_args.channels.3 is 10000000"),
    "wide": (arguments(channels=[2**20] * 4), "declares parameters and buffers"),
    "not finite": (arguments(drop_rate=float("inf")), "model_args.drop_rate is inf; a number here must be finite"),
    "architecture": (lambda config: config.update(architecture="vit_giant_patch14_224"), "declares parameters and buf"),
}


WAYS = {
    "create": create,
    "teacher": _teacher.load,
    "install": lambda name: install(name, "star_resnet10t.much"),
    "publish": lambda name: hub.check(Path(name)),
    "card": lambda name: render(Path(name)),
}


@pytest.mark.parametrize(("change", "refusal"), CONFIGS.values(), ids=CONFIGS)
def test_a_config_may_not_ask_for_more_than_its_weights_hold(
    good: Path, tmp_path: Path, change: Callable[[Any], Any], refusal: str
):
    """`eval`, `compare`, `finetune` and `--init-from` all make their models by `create`."""
    folder = changed(good, tmp_path, "config.json", change)
    with at_most(2**30):
        for way in ["create"] if "asks" in refusal else WAYS:
            with pytest.raises(ValueError, match=refusal):
                WAYS[way](str(folder))


def test_classes_of_a_config_are_bounded_where_they_are_built(good: Path, tmp_path: Path):
    folder = changed(good, tmp_path, "config.json", lambda config: config.update(num_classes=MUCH))
    with at_most(2**30):
        assert create(str(folder)).num_classes == 0  # without the classifier
        with pytest.raises(ValueError, match="declares parameters and buffers"):
            hub.check(folder)


def settings(**given: Any) -> Callable[[Any], Any]:
    return lambda heads: heads["settings"].update(given)


HEADS = {
    "embed_dim": (
        settings(embed_dim=MUCH),
        r"valid objective: its data.settings.embed_dim is 1000000000; .* at most 1,048",
    ),
    "num_experts": (settings(num_experts=MUCH), "settings.num_experts is 1000000000"),
    "num_features": (lambda heads: heads.update(num_features=MUCH), "num_features is 1000000000"),
    "wide": (settings(hidden=2**20), "declares parameters and buffers of more than"),
    "view": (
        lambda heads: heads["policy"]["augmentations"][0].update(size=5000),
        "views is 5000; it must be at most 4",
    ),
}


@pytest.mark.parametrize(("change", "refusal"), HEADS.values(), ids=HEADS)
def test_heads_may_not_ask_for_more_than_their_weights_hold(
    good: Path, tmp_path: Path, change: Callable[[Any], Any], refusal: str
):
    folder = changed(good, tmp_path, "heads.json", change)
    with at_most(2**30), pytest.raises(ValueError, match=refusal):
        load_objective(folder)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    {
        ("objective_args", "embed_dim", MUCH): "objective_args.embed_dim is 1000000000",
        ("objective_args", "hidden", 2**20): "objective 'star' declares parameters and buffers",
        ("backbone_args", "stem_width", 2**19): "declares parameters and buffers",
        ("backbone_args", "layers", (MUCH, 1, 1, 1)): "layers.0 is 1000000000",
    }.items(),
)
def test_a_recipe_may_not_ask_for_more_than_the_memory_holds(changes: tuple[str, str, Any], refusal: str):
    group, name, value = changes
    recipe = replace(cifar10_resnet10t(), objective="star", **{group: {name: value}})
    with at_most(2**30), pytest.raises(ValueError, match=refusal):
        build(recipe)


def test_numbers_are_counted_as_they_are_registered():
    """Exactly as many as the parameters and buffers hold, and 4096 for each smaller one."""
    model = timm.create_model("resnet10t")
    needed = sum(max(tensor.numel(), 4096) for tensor in (*model.parameters(), *model.buffers()))
    with bounds.limited(needed, "x"):
        timm.create_model("resnet10t")
    refusal = f"x declares parameters and buffers of more than {needed - 1:,} values"
    with pytest.raises(ValueError, match=refusal), bounds.limited(needed - 1, "x"):
        timm.create_model("resnet10t")
    timm.create_model("resnet10t")  # the limit ends with the block


def test_the_check_leaves_random_numbers_alone():
    torch.manual_seed(3)
    expected = timm.create_model("mixnet_s").state_dict()  # whose construction draws some even on the meta device
    torch.manual_seed(3)
    found = hub.create("mixnet_s", pretrained=False).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_numbers_are_found_at_any_depth():
    nested: Any = 2**20 + 1
    for _ in range(5000):  # more than Python's recursion limit
        nested = [nested]
    with pytest.raises(ValueError, match="is 1048577"):
        bounds.check_numbers(nested, "x")
    bounds.check_numbers({"a": [2**20, -1.5, True, None, "1e9"]}, "x")


def test_a_saved_wrapper_names_no_other_weights(tmp_path: Path):
    wrapper = wrappers.build("concat", [backbone(), backbone()], POLICY)
    folder = save_pretrained(tmp_path, savable(wrapper), model_args=wrapper._model_args)
    hub.check(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["model_args"]["backbones"][0]["checkpoint_path"] = str(tmp_path / "any.pth")
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="names weights of its own; a wrapper's are in its own file"):
        create(str(folder))


def test_an_installed_config_is_bounded_for_timm_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Somebody changed it in the store, after `install` checked it."""
    monkeypatch.setenv("STAR_ZOO_HOME", str(tmp_path / "home"))
    small = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}
    model = timm.create_model("resnet10t", num_classes=0, **small)
    where = install(save_pretrained(tmp_path / "export", model, model_args=small), "star_resnet10t.mine")
    timm.create_model("star_resnet10t.mine", pretrained=True)
    config = json.loads((where / "config.json").read_text())
    for given, refusal in (
        (2**20, "star_resnet10t.mine declares parameters and buf"),
        (MUCH, "layers.3 is 1000000000"),
    ):
        config["model_args"] = {"layers": [1, 1, 1, given]}
        (where / "config.json").write_text(json.dumps(config))
        for device in ("cpu", "meta"):  # `star-zoo list` builds it on the latter
            with pytest.raises((ValueError, NotAvailable), match=refusal):
                timm.create_model("star_resnet10t.mine", pretrained=device == "cpu", device=device)


def test_a_config_that_is_no_json_is_named(good: Path, tmp_path: Path):
    folder = tmp_path / "broken"
    shutil.copytree(good, folder)
    (folder / "config.json").write_text('{"a\n')
    with pytest.raises(ValueError, match=rf"{folder / 'config.json'} is not a valid config.json: Invalid control"):
        hub.create(str(folder))
