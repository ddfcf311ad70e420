"""Recipes as data: `--set` finds the right place and type, JSON loses nothing, differences are named."""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_catalog import zoo
from star_training import recipes
from star_training.pretraining.recipe import DataConfig, Recipe
from star_training.settings.base import differences, in_words, override, typed
from star_training.settings.common import OptimizerConfig, RunConfig
from star_zoo import Policy, objectives
from star_zoo.augmentations import ColorJitter, Solarize
from star_zoo.augmentations.presets import PRESETS, preset

FOLDER = recipes.find("folder")


def refused(*changes: str, recipe: Recipe = FOLDER) -> str:
    with pytest.raises(ValueError) as caught:
        override(recipe, changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# JSON


@pytest.mark.parametrize("name", recipes.known())
def test_a_recipe_survives_json(name: str):
    recipe = recipes.find(name)
    again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe
    assert type(again.policy) is Policy and isinstance(again.optimizer, OptimizerConfig)
    assert differences(again, recipe) == []


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    optimizer=st.builds(
        OptimizerConfig,
        name=st.sampled_from(["adamw", "lars"]),
        lr=st.floats(0, 10),
        decay_norms=st.booleans(),
        clip=st.none() | st.floats(0.1, 5),
    ),
    data=st.builds(DataConfig, source=st.text(), limit=st.none() | st.integers(1, 99), hold_out=st.floats(0, 0.9)),
    run=st.builds(RunConfig, workers=st.integers(0, 8), keep=st.integers(1, 4)),
    objective_args=st.dictionaries(st.text(), st.none() | st.integers() | st.floats(allow_nan=False) | st.text()),
    seed=st.integers(),
)
def test_any_recipe_survives_json(**changes: Any):
    recipe = dataclasses.replace(FOLDER, **changes)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_what_to_dict_gives_is_a_copy():
    FOLDER.to_dict()["objective_args"]["num_experts"] = 99
    assert FOLDER.objective_args["num_experts"] != 99


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "x"}, "recipe lacks backbone, data, epochs, policy"),
        (FOLDER.to_dict() | {"batchsize": 3}, "recipe has no field batchsize; known: name, backbone"),
        (FOLDER.to_dict() | {"data": {}}, "data lacks source"),
        (FOLDER.to_dict() | {"data": {"source": "x", "sauce": 1}}, "data has no field sauce; known: source"),
        (FOLDER.to_dict() | {"optimizer": "sgd"}, "optimizer is 'sgd'; it has the fields name, lr"),
        (FOLDER.to_dict() | {"policy": 3}, "not a policy"),
        (FOLDER.to_dict() | {"policy": {"augmentations": []}}, "not a policy"),
    ],
)
def test_data_that_is_no_recipe_is_refused(data: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        Recipe.from_dict(data)


# --set


@pytest.mark.parametrize(
    ("setting", "read"),
    [
        ("optimizer.lr=0.5", lambda r: (r.optimizer.lr, 0.5)),
        ("optimizer.lr=1", lambda r: (r.optimizer.lr, 1.0)),  # a whole number is a float too
        ("optimizer.lr=3e-4", lambda r: (r.optimizer.lr, 0.0003)),
        ("optimizer.clip=null", lambda r: (r.optimizer.clip, None)),
        ("optimizer.clip=1", lambda r: (r.optimizer.clip, 1.0)),
        ("optimizer.decay_norms=false", lambda r: (r.optimizer.decay_norms, False)),
        ("optimizer.name=adamw", lambda r: (r.optimizer.name, "adamw")),
        ("batch_size=64", lambda r: (r.batch_size, 64)),
        ("data.limit=100", lambda r: (r.data.limit, 100)),
        ("data.source=a=b c", lambda r: (r.data.source, "a=b c")),
        ('data.source="123"', lambda r: (r.data.source, "123")),
        ("run.workers=0", lambda r: (r.run.workers, 0)),
        ("init_from=runs/x", lambda r: (r.init_from, "runs/x")),
        ("backbone_args.drop_path_rate=0.1", lambda r: (r.backbone_args, {"drop_path_rate": 0.1})),
        ('backbone_args={"a": 1}', lambda r: (r.backbone_args, {"a": 1})),
        ("objective_args.num_experts=4", lambda r: (r.objective_args, {"num_experts": 4})),
        ("objective_args.hidden=64", lambda r: (r.objective_args, {"num_experts": 8, "hidden": 64})),
        ("policy.augmentations.0.size=64", lambda r: (r.policy.size, 64)),
        ("policy.augmentations.0.scale=[0.5, 1]", lambda r: (r.policy.augmentations[0].scale, (0.5, 1))),
        ("policy.augmentations.2.hue=0", lambda r: (r.policy.augmentations[2].hue, 0)),
        ("policy.mean=[0.5, 0.5, 0.5]", lambda r: (r.policy.mean, (0.5, 0.5, 0.5))),
    ],
)
def test_a_setting_reaches_its_field_with_its_type(setting: str, read: Any):
    recipe = override(FOLDER, [setting])
    found, expected = read(recipe)
    assert found == expected and type(found) is type(expected)
    assert all(line.startswith(setting.partition("=")[0]) for line in differences(FOLDER, recipe))


def kinds(recipe: Recipe) -> list[str]:
    return [type(one).__name__ for one in recipe.policy.augmentations]


def test_augmentations_are_added_replaced_and_removed():
    added = override(FOLDER, ["policy.augmentations+=Solarize"])
    assert kinds(added) == [*kinds(FOLDER), "Solarize"] and added.policy.augmentations[-1] == Solarize()
    own = override(added, ['policy.augmentations+={"name": "ColorJitter", "hue": 0.25}'])
    assert kinds(own) == kinds(added) and own.policy.augmentations[2] == ColorJitter(hue=0.25)
    fewer = override(own, ["policy.augmentations-=Blur", "policy.augmentations-=Jigsaw"])  # there is no jigsaw
    assert kinds(fewer) == ["Crop", "Flip", "ColorJitter", "Grayscale", "Solarize"]


def test_statistics_of_other_fields_are_dropped_with_the_change():
    fields = len(FOLDER.policy.fields)
    known = override(FOLDER, [f"policy.statistics={[[0.5] * fields, [1.0] * fields]}"])
    assert override(known, ["policy.augmentations+=Flip"]).policy.statistics is not None
    assert override(known, ["policy.augmentations+=Invert"]).policy.statistics is None
    assert override(known, ["policy.augmentations-=Flip"]).policy.statistics is None


CHANGES = [
    "policy=dorsal", "policy=ventral", "policy.augmentations+=Solarize", "policy.augmentations-=Grayscale",
    'policy.augmentations+={"name": "Solarize", "p": 0.5}', "policy.augmentations.Crop.size=64",
    "policy.augmentations-=Blur",
]  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(CHANGES), max_size=5))
def test_the_same_changes_again_change_nothing(changes: list[str]):
    """So a run is resumed with the arguments that it was started with, or with none."""
    once = override(FOLDER, changes)
    assert differences(once, override(once, changes)) == []


def test_an_augmentation_is_found_by_its_name_too():
    assert override(FOLDER, ["policy.augmentations.Flip.p=0.25"]) == override(FOLDER, ["policy.augmentations.1.p=0.25"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("policy.augmentations+=Solarise", "augmentation 'Solarise' not found; did you mean 'Solarize'? known: Crop"),
        ("policy.augmentations-=blur", "did you mean 'Blur'? known: Crop, Spirograph"),
        (
            "policy.augmentations+=3",
            "--set policy.augmentations+=3 has no name; write e.g. policy.augmentations+=Solar",
        ),
        ('policy.augmentations+={"p": 1}', "has no name"),
        ('policy.augmentations+={"name": ["Flip"]}', "augmentation \"['Flip']\" not found"),
        ('policy.augmentations+={"name": "Blur", "p": "x"}', "policy.augmentations.Blur.p is 'x'; it must be a number"),
        ('policy.augmentations+={"name": "Blur", "q": 1}', "Blur has no setting q; known: kernel, levels, p, sigma"),
        ("policy.augmentations+=Crop", "Crop lacks size; its settings are size, scale, ratio, unit"),
        ('policy.augmentations+={"name": "Spirograph", "size": 8}', "must be first and nowhere else"),
        ("policy.augmentations-=Crop", "the first augmentation of a policy must be Crop or Spirograph"),
        ("policy.augmentations.Flop.p=1", "'Flop' is not an index; pass a number from 0 to 4, or one of Crop, Flip"),
        ("seed+=1", "seed+=: this setting takes no +=; write seed=VALUE"),
        ("policy-=dorsal", "policy-=: this setting takes no -="),
    ],
)
def test_a_wrong_change_of_augmentations_is_refused_with_the_known_ones(change: str, message: str):
    assert message in refused(change)


def test_later_settings_win():
    assert override(FOLDER, ["seed=1", "batch_size=4", "seed=2"]).seed == 2


def test_no_setting_changes_nothing():
    assert override(FOLDER, []) == FOLDER


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimizer.lr", "--set 'optimizer.lr' has no value; write path=value"),
        ("optimizer.learning_rate=1", "known: name, lr, weight_decay"),
        ("optimizer.weight_dekay=1", "did you mean 'weight_decay'?"),
        ("batchsize=4", "did you mean 'batch_size'?"),
        ("=4", "known: name, backbone"),
        ("backbone_args.a.b=1", "field 'a' not found; known: none"),
        ("optimizer.lr.x=1", "'optimizer.lr' has no fields, it is 0.06"),
        ("policy.augmentations.9.size=64", "'9' is not an index; pass a number from 0 to 4"),
        ("policy.augmentations.size=64", "'size' is not an index"),
        ("policy.augmentations.0.sise=64", "did you mean 'size'?"),
        ("optimizer.lr=fast", "optimizer.lr is 'fast'; it must be a number"),
        ("optimizer.lr=true", "optimizer.lr is True; it must be a number"),
        ("optimizer.clip=x", "optimizer.clip is 'x'; it must be a number or null"),
        ("batch_size=0.5", "batch_size is 0.5; it must be a whole number"),
        ("batch_size=true", "batch_size is True; it must be a whole number"),
        ("epochs=null", "epochs is None; it must be a whole number"),
        ("compile=1", "compile is 1; it must be true or false"),
        ("backbone=3", "backbone is 3; it must be text"),
        ("data=images", "data is 'images'; it has the fields source, limit"),
        ("objective_args=[]", "objective_args is []; it must be an object {...}"),
        ("policy.augmentations.0.size=31.5", "policy.augmentations.0.size is 31.5; it must be a whole number"),
        ("policy.augmentations.0.scale=[0.2]", "policy.augmentations.0.scale is [0.2]; it must be a list of 2"),
        ("policy.augmentations.1.p=often", "policy.augmentations.1.p is 'often'; it must be a number"),
        ("policy.mean=[1, 2]", "the policy has 2 pixel means and 3 standard deviations"),
        ("policy.augmentations.0.name=Crob", "did you mean 'Crop'?"),
        ("precision=fp8", "precision is 'fp8'; known: 'auto', 'no', 'bf16', 'fp16'"),
        ("channels_last=maybe", "channels_last is 'maybe'; known: 'auto', true, false"),
        ("run.workers=many", "run.workers is 'many'; pass a number of processes, or 'auto'"),
        ("epochs=0", "epochs is 0; it must be at least 1"),
        ("batch_size=1", "batch_size is 1; it must be at least 2"),
        ("run.workers=-1", "run.workers is -1; it must be at least 0"),
        ("run.keep=0", "run.keep is 0; it must be at least 1"),
        ("optimizer.clip=0", "optimizer.clip is 0.0; it must be a norm above 0, or null for none"),
        ("optimizer.warmup_epochs=-1", "optimizer.warmup_epochs is -1.0; it must be at least 0"),
        ("data.hold_out=1", "data.hold_out is 1.0"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_would_be_right(setting: str, message: str):
    assert message in refused(setting)


# Presets of the policy


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(
    "recipe", [FOLDER, recipes.find("cifar10_small"), recipes.find("in100_resnet50")], ids=lambda r: r.name
)
def test_a_preset_takes_the_place_of_the_augmentations(name: str, recipe: Recipe):
    made = override(recipe, [f"policy={name}"])
    assert made == dataclasses.replace(recipe, policy=preset(name, recipe.policy))
    assert (made.policy.size, made.policy.mean) == (recipe.policy.size, recipe.policy.mean)
    saved = json.loads(json.dumps(made.to_dict()))
    assert isinstance(saved["policy"], dict) and Recipe.from_dict(saved) == made


def test_settings_before_and_after_a_preset_act_on_it():
    made = override(FOLDER, ["policy.augmentations.0.size=48", "policy=dorsal", "policy.augmentations.1.hue=0.2"])
    assert made.policy.size == 48 and made.policy.augmentations[1].hue == 0.2
    assert [type(a).__name__ for a in made.policy.augmentations] == ["Crop", "ColorJitter", "Grayscale", "Blur"]
    assert override(FOLDER, ["policy=dorsal", "policy=ventral"]) == override(FOLDER, ["policy=ventral"])


def test_the_policy_of_a_saved_model_replaces_all_of_the_recipe_s():
    made = override(FOLDER, ["policy=star_resnet10t.cifar10"])
    saved = json.loads((zoo.EMBEDDED / "star_resnet10t.cifar10" / "heads.json").read_text())["policy"]
    assert made.to_dict()["policy"] == saved and made.policy.size == 48 != FOLDER.policy.size


def test_an_unknown_preset_is_refused_with_the_known_ones():
    known = "policy preset 'vental' not found; did you mean 'ventral'? known: default, ventral, dorsal"
    assert refused("policy=vental").startswith(f"{known}; a model saved with heads is possible, too: a run, a saved")
    with pytest.raises(FileNotFoundError, match="nowhere/run' doesn't exist; pass a finished run, a saved folder"):
        override(FOLDER, ["policy=nowhere/run"])
    assert "makes its views by Spirograph" in refused("policy=ventral", recipe=recipes.find("spirograph_tiny"))
    assert "not a policy" in refused("policy=3")


# Other objectives, and what differs


@pytest.mark.parametrize("name", objectives.known())
def test_another_objective_keeps_the_settings_that_it_shares(name: str):
    recipe = override(FOLDER, ["objective_args.hidden=32", "objective_args.temperature=0.3", "seed=5"])
    other = recipe.with_objective(name)
    assert other.objective == name
    known = objectives.settings(name)
    assert {"hidden": 32, "temperature": 0.3}.keys() <= recipe.objective_args.keys()
    assert other.objective_args == {k: v for k, v in recipe.objective_args.items() if k in known}
    assert dataclasses.replace(other, objective="star", objective_args=recipe.objective_args) == recipe
    objectives.build(name, 8, other.policy, **other.objective_args)  # and they are good


def test_a_list_of_any_length_has_items_of_one_type():
    assert typed([], tuple[float, ...], "levels") == ()
    assert typed([1, 2.5], tuple[float, ...], "levels") == (1.0, 2.5)
    with pytest.raises(ValueError, match=r"levels\.1 is 'b'; it must be a number"):
        typed([1, "b"], tuple[float, ...], "levels")
    with pytest.raises(ValueError, match="levels is 3; it must be a list$"):
        typed(3, tuple[float, ...], "levels")


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int | None, "a whole number or null"),
        (dict[str, Any], "an object {...}"),
        (dict[str, dict[str, Any]], "an object {...} of objects {...}"),
        (list[list[float]], "a list of lists of numbers"),
        (tuple[float, ...] | None, "a list of numbers or null"),
        (Sequence[str] | str, "a list of texts or text"),
    ],
)
def test_types_in_words(hint: Any, words: str):
    assert in_words(hint) == words


def test_an_unknown_objective_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'simclear' not found; did you mean 'simclr'\? known: .*equimod, .*simclr"):
        FOLDER.with_objective("simclear")


def test_differences_name_each_field_with_both_values():
    other = override(FOLDER, ["optimizer.lr=0.5", "policy.augmentations.0.size=64", "objective_args.hidden=32"])
    assert differences(FOLDER, other) == [
        "objective_args.hidden: None, 32",
        "optimizer.lr: 0.06, 0.5",
        "policy.augmentations.0.size: 96, 64",
    ]


def test_neither_the_run_nor_the_place_of_the_images_is_a_difference():
    assert differences(FOLDER, override(FOLDER, ["run.workers=7", "run.keep=9", "data.source=/elsewhere"])) == []
    assert differences(FOLDER, override(FOLDER, ["data.limit=7"])) == ["data.limit: None, 7"]
