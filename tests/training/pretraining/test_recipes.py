"""Every recipe can be built, says what it is, and its learning rate and weight decay are what it says.

Letters: B images, V views of an image, S view size, P augmentation parameters.
"""

import contextlib
import math
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runs import EPOCH, STEPS, entries, tiny
from star_training import recipes
from star_training.engine.optim import build_optimizer, learning_rate
from star_training.pretraining.module import build
from star_training.pretraining.run import Run
from star_training.settings.common import OptimizerConfig
from star_zoo import Batch, objectives

# Recipes


@pytest.mark.parametrize("name", recipes.known())
def test_a_recipe_says_what_it_is(name: str):
    recipe = recipes.find(name)
    assert recipe.name == name
    assert timm.is_model(recipe.backbone) and recipe.backbone.startswith("star_")
    assert recipes.known()[name].endswith((".", "download.", ")"))
    assert recipe.objective in objectives.known()


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="recipe 'foulder' not found; did you mean 'folder'. known: cifar10_resnet10t"):
        recipes.find("foulder")


@pytest.mark.parametrize("private", ["known", "find", "_policy", "Recipe"])
def test_helpers_are_no_recipes(private: str):
    with pytest.raises(ValueError, match="not found"):
        recipes.find(private)


@pytest.mark.parametrize("name", recipes.known())
def test_a_recipe_builds_its_module_and_the_module_takes_its_views(name: str, monkeypatch):
    recipe = recipes.find(name)
    fields = recipe.policy.fields
    assert len(set(fields)) == len(fields) == recipe.policy.field_statistics[0].numel()
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # knows no meta device
    with torch.device("meta"):  # shapes without memory
        module, notes = build(recipe)
        size = recipe.policy.size
        view = torch.zeros(2, 4, 1, 1) if "h" in fields else torch.zeros(2, 3, size, size, dtype=torch.uint8)
        params = [torch.zeros(2, len(fields))] * 3
        terms = module.to("meta")(Batch([view] * 3, params, torch.arange(2), torch.full((2, 2), size)))
    assert notes == []
    assert terms.keys() == {"loss", "invariant", "equivariant"} and terms["loss"].shape == ()
    assert module.objective.heads.experts.num_experts == recipe.objective_args.get("num_experts", 16)
    assert len(module.objective.shift_predictor.standardize.mean) == len(fields)
    cfg = module.backbone.pretrained_cfg
    assert cfg["input_size"] == (3, recipe.policy.size, recipe.policy.size)
    assert (cfg["mean"], cfg["std"]) == (recipe.policy.mean, recipe.policy.std)
    assert module.backbone.num_classes == 0


# The learning rate


@given(steps=st.integers(1, 3000), warmup=st.integers(0, 100), peak=st.floats(1e-5, 10))
@settings(derandomize=True, deadline=None)
def test_the_rate_rises_linearly_and_falls_as_a_half_cosine(steps: int, warmup: int, peak: float):
    warmup = min(warmup, steps)
    rates = [learning_rate(step, steps, warmup, peak) for step in range(steps)]
    for step, rate in enumerate(rates):
        if step < warmup:
            expected = peak * (step + 1) / warmup
        else:
            expected = peak * math.cos(math.pi / 2 * (step - warmup) / (steps - warmup)) ** 2
        assert rate == pytest.approx(expected, rel=1e-9, abs=1e-12 * peak)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert min(rates) > 0 and max(rates) <= peak * (1 + 1e-12)
    if warmup:
        assert rates[warmup - 1] == pytest.approx(peak)  # reached with the last step of the warm-up
    assert learning_rate(steps, steps, warmup, peak) == pytest.approx(0 if warmup < steps else peak, abs=1e-9)


def test_each_step_of_a_run_has_the_rate_of_its_schedule(tmp_path: Path):
    run = Run(tiny("optimizer.warmup_epochs=0.5", "batch_size=4", "accumulate=2", "run.eval_every=0"), tmp_path)
    seen = []
    run.optimizer.optimizer.register_step_pre_hook(lambda inner, *_: seen.append([g["lr"] for g in inner.param_groups]))
    run.train()
    peak = run.recipe.optimizer.lr * 8 / 256  # linear in the images of a step
    expected = [learning_rate(step, STEPS, EPOCH // 2, peak) for step in range(STEPS)]
    assert all(rate == own for rates, own in zip(seen, expected, strict=True) for rate in rates)
    assert [e["lr"] for e in entries(tmp_path)] == expected


# The optimiser


def decayed(decay_norms: bool) -> tuple[set[str], set[str]]:
    """The names of all parameters with weight decay, and of those without."""
    module, _ = build(tiny())
    optimizer = build_optimizer(OptimizerConfig(weight_decay=0.1, decay_norms=decay_norms), module)
    names = {id(p): name for name, p in module.named_parameters()}
    yes = {names[id(p)] for g in optimizer.param_groups for p in g["params"] if g["weight_decay"] == 0.1}
    no = {names[id(p)] for g in optimizer.param_groups for p in g["params"] if g["weight_decay"] == 0}
    assert yes | no == set(names.values()) and not yes & no
    return yes, no


def test_everything_decays_where_norms_decay():
    assert decayed(decay_norms=True)[1] == set()


def test_norms_and_biases_do_not_decay_otherwise():
    module, _ = build(tiny())
    _, no = decayed(decay_norms=False)
    assert no == {name for name, p in module.named_parameters() if p.ndim <= 1 or name.endswith(".bias")}
    assert {"encoder.backbone.bn1.weight", "objective.heads.experts.norm1.bias"} <= no


def test_momentum_reaches_the_optimiser():
    module, _ = build(tiny())
    optimizer = build_optimizer(OptimizerConfig(name="momentum", momentum=0.7), module)
    assert {(g["momentum"], g["nesterov"]) for g in optimizer.param_groups} == {(0.7, False)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("addam", "optimizer.name 'addam' not found; did you mean 'adam'."),
        ("bnbadam", "can't be built here: CUDA required"),
    ],
)
def test_an_optimiser_that_cannot_be_had_is_refused(name: str, message: str):
    if name == "bnbadam" and torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    module, _ = build(tiny())
    with pytest.raises(ValueError, match=message):
        build_optimizer(OptimizerConfig(name=name), module)
