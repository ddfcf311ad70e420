"""What a study is, and every study that there is."""

import dataclasses
import re
from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf

from star_training import studies
from star_training.data import DataError
from star_training.evaluation import protocols as evals
from star_training.pretraining.module import build
from star_training.pretraining.recipe import Recipe
from star_training.studies.study import MEAN, Images, Method, Study, located
from star_zoo import objectives
from star_zoo.heads import StarHeads

PACK = "{name}.parquet"
OBJECTIVE = {"objective", "objective_args"}
CHANGED = {  # the recipe's other fields in which methods differ
    "backbones_small": {"backbone", "backbone_args", "optimizer"},
    "continued_small": {"freeze_norms", "optimizer", "epochs"},
    "invariances_small": {"policy", "backbone_args"},
    "symmetry_small": {"backbone", "backbone_args"},
    "why_correlated": {"backbone_args"},
}


def find(name: str, tmp_path: Path) -> Study:
    """A study, with a stand-in for each of its data sets and for its start to be found."""
    study = studies.find(name)
    for data in (study.images.name, *study.data):
        (tmp_path / f"{data}.parquet").touch()
    if study.start:
        save_for_hf(timm.create_model(study.recipe.backbone), tmp_path / study.start.weights)
    return study


def meta(recipe: Recipe) -> torch.nn.Module:
    loads = recipe.objective == "distill" or recipe.init_from  # the weights of a teacher or of a start
    with torch.device("cpu" if loads else "meta"):
        return build(recipe)[0]


@pytest.mark.parametrize("name", studies.known())
@pytest.mark.parametrize("haste", [False, True])
def test_every_run_of_every_study_can_be_built(name: str, haste: bool, tmp_path: Path):
    study = find(name, tmp_path)
    study = study.in_haste() if haste else study
    recipes = {method.name: study.recipe_of(method, 1, tmp_path) for method in study.methods}
    assert len(recipes) == len(study.methods)
    for recipe in recipes.values():
        assert recipe.seed == 1 and recipe.data.source == str(tmp_path / f"{study.images.name}.parquet")
        meta(recipe)
    changed = {change.split(".")[0].split("=")[0] for method in study.methods for change in method.changes}
    kept = [{k: v for k, v in r.to_dict().items() if k not in changed | OBJECTIVE} for r in recipes.values()]
    assert all(other == kept[0] for other in kept)  # the methods differ in their objectives and changes alone
    assert changed - OBJECTIVE == CHANGED.get(name, set())


@pytest.mark.parametrize("name", studies.known())
def test_studies_speak_of_what_there_is(name: str, tmp_path: Path):
    study = find(name, tmp_path)
    methods = {column.name for column in study.columns}
    spoken = {m for claim in study.claims for c in claim.comparisons for m in (c.better, c.worse)}
    assert (spoken | {m for pair in study.pairs for m in pair}) - {""} <= methods
    for measures in (study.measures, study.fast_measures):
        assert {measure.protocol for measure in measures} <= set(evals.known())
    assert set(study.transfer) <= set(study.data) and set(study.transfer_over_steps) <= set(study.data)
    assert [claim.name for claim in study.claims] in ([], [f"C{n}" for n in range(1, 11)])
    assert all(claim.comparisons or claim.note for claim in study.claims)
    assert all(located(data, tmp_path) for data in study.data)


@pytest.mark.parametrize("name", [name for name in studies.known() if studies.find(name).claims])
def test_the_wide_rival_has_as_many_weights_in_its_heads(name: str, tmp_path: Path):
    study = find(name, tmp_path)
    main = study.pairs[0][0]
    counts = {}
    for method in study.methods:
        heads = meta(study.recipe_of(method, 0, tmp_path)).objective.heads
        if isinstance(heads, StarHeads):
            counts[method.name] = sum(p.numel() for p in heads.experts.parameters())
    assert counts["equimod_wide"] == pytest.approx(counts[main], rel=0.005)
    assert counts["equimod"] < 0.3 * counts[main]


def test_help_describes_every_field_of_a_study():
    described = re.findall(r"^        (\w+): ", Study.__doc__ or "", re.MULTILINE)
    assert described == [field.name for field in dataclasses.fields(Study)]


def test_every_objective_that_trains_a_backbone_is_a_method_of_methods_small():
    study = studies.find("methods_small")
    others = (name for name in objectives.known() if name != "canonicalization")  # which trains no backbone
    assert [m.objective for m in study.methods] == [name for name in others if not objectives.find(name).needs_group]
    assert {place.data for place in study.headline} == {"cifar10", MEAN, ""}


def test_some_methods_are_a_study_with_the_pairs_among_them():
    study = studies.find("cifar10_small")
    some = study.only(["star_8", "simclr"])
    assert [method.name for method in some.methods] == ["simclr", "star_8"] and some.pairs == (("star_8", "simclr"),)
    assert study.only(None) is study and some.claims == study.claims


def test_a_number_of_seeds_is_that_of_every_method():
    study = studies.find("cifar10_small")
    assert {m.seeds for m in study.methods} == {1, 3, 5} and study.seeds(None) is study
    assert {m.seeds for m in study.seeds(2).methods} == {2}
    with pytest.raises(ValueError, match="--seeds is 0; it must be at least 1"):
        study.seeds(0)


def test_haste_keeps_the_methods_and_measures_less():
    study = studies.find("cifar10_small")
    hasty = study.in_haste()
    assert hasty.methods == study.methods and hasty.claims == study.claims
    assert hasty.recipe.epochs < study.recipe.epochs and set(hasty.data) < set(study.data)
    assert hasty.transfer and set(hasty.transfer) <= {
        n for m in hasty.measures if m.protocol == "linear" for n in m.data
    }


def test_an_unknown_study_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="study 'cifar10' not found; did you mean 'cifar10_small'"):
        studies.find("cifar10")


# Where images are


def test_images_are_a_pack_or_a_folder(tmp_path: Path):
    with pytest.raises(DataError, match=r"needs cifar10: neither .*cifar10\.parquet nor the folder .*cifar10 exists"):
        Images("cifar10", "CIFAR10").source(tmp_path)
    (tmp_path / "cifar10").mkdir()
    assert Images("cifar10", "CIFAR10").source(tmp_path) == f"torchvision:CIFAR10@{tmp_path / 'cifar10'}"
    assert Images("cifar10").source(tmp_path) == str(tmp_path / "cifar10")
    (tmp_path / "cifar10.parquet").touch()
    assert Images("cifar10", "CIFAR10").source(tmp_path) == str(tmp_path / "cifar10.parquet")


def test_sets_of_the_paper_are_opened_by_their_rules(tmp_path: Path):
    for name in ("pets", "birds"):
        (tmp_path / name).mkdir()
    assert located("pets", tmp_path) == f"pets@{tmp_path / 'pets'}"
    assert located("birds", tmp_path) == str(tmp_path / "birds")
    (tmp_path / "pets.parquet").touch()
    assert located("pets", tmp_path) == str(tmp_path / "pets.parquet")
    with pytest.raises(DataError, match="the study needs fish"):
        located("fish", tmp_path)


def test_a_method_changes_the_recipe_as_the_command_line_would(tmp_path: Path):
    study = find("cifar10_small", tmp_path)
    recipe = study.recipe_of(Method("wide", "equimod", ("objective_args.hidden=640",)), 2, tmp_path)
    assert recipe.objective == "equimod" and recipe.objective_args == {"hidden": 640} and recipe.seed == 2
    assert dataclasses.replace(study, methods=()).recipe is study.recipe
