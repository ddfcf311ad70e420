"""Every objective by existing.

Letters: B images, D features.
"""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import twins
from star_zoo import Batch, Encoder, Objective, objectives
from twins import NUM_FEATURES, POLICY, build, generator, randn

B, D = 6, NUM_FEATURES


# --- every objective


def test_every_file_is_an_objective():
    folder = Path(objectives.__file__).parent
    assert objectives.known() == tuple(sorted(path.stem for path in folder.glob("[!_]*.py")))
    assert {"star", "star_ss", "equimod", "simclr"} <= set(objectives.known())


@pytest.mark.parametrize("name", objectives.known())
def test_a_plan_is_a_row_of_params_for_each_view(name: str):
    objective = build(name)
    plan = objective.plan(20, 30, generator(0))
    assert plan.ndim == 2
    assert plan.shape[1] == len(objective.policy.fields)
    assert plan.dtype == torch.float32
    assert objective.plan(500, 40, generator(1)).shape == plan.shape  # as many views of any image


@pytest.mark.parametrize("name", objectives.known())
def test_a_plan_is_a_pure_function_of_the_generator(name: str):
    plans = [build(name, seed).plan(20, 30, generator(5)) for seed in (0, 1)]
    assert torch.equal(*plans)
    assert not torch.equal(plans[0], build(name).plan(20, 30, generator(6)))


def seen(objective: Objective, seed: int = 0) -> tuple[Batch, Encoder]:
    """A batch of the objective's views of random images with classes, and the encoder that it is attached to."""
    encoder = twins.encoder(objective.policy, objective.needs_group)
    batch = twins.batch(objective, 8, seed)
    objective.attach(encoder)
    return batch, encoder


def steps(name: str, count: int = 2) -> tuple[Objective, Encoder, list[dict[str, Tensor]]]:
    """The terms of a few SGD steps, the momentum copies and queues moving."""
    torch.manual_seed(0)  # an objective may draw weights in `attach` and numbers in `forward`
    objective = build(name)
    batch, encoder = seen(objective)
    weights = [p for p in (*objective.parameters(), *encoder.parameters()) if p.requires_grad]
    optimizer, found = torch.optim.SGD(weights, 0.1), []
    for step in range(count):
        terms = objective(batch, encoder)
        optimizer.zero_grad()
        objectives.total(terms).backward()
        optimizer.step()
        with torch.no_grad():
            objective.after_step(encoder, (step + 1) / count)
        found.append({term: value.detach() for term, value in terms.items()})
    return objective, encoder, found


@pytest.mark.parametrize("name", objectives.known())
def test_terms_are_finite_scalars_and_train_every_weight(name: str):
    objective, encoder, found = steps(name)
    for terms in found:
        assert terms
        for term, value in terms.items():
            assert value.shape == (), term
            assert value.isfinite(), term
            assert value.dtype == torch.float32, term
    for weight, parameter in objective.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"no gradient for {weight}"
            assert parameter.grad.isfinite().all(), weight
            assert parameter.grad.any(), f"the gradient of {weight} is zero"
        else:
            assert parameter.grad is None, weight
    trained = any(p.grad is not None and p.grad.any() for p in encoder.parameters())
    assert trained == any(p.requires_grad for p in encoder.parameters()) == (name != "canonicalization")


@pytest.mark.parametrize("name", objectives.known())
def test_the_same_seed_trains_to_the_same_bits(name: str):
    (one, _, first), (same, _, again) = steps(name), steps(name)
    assert first == again
    for (weight, a), (_, b) in zip(one.state_dict().items(), same.state_dict().items(), strict=True):
        assert torch.equal(a, b), weight


@pytest.mark.parametrize("name", objectives.known())
def test_terms_under_autocast_stay_close(name: str):
    objective = build(name)
    batch, encoder = seen(objective)
    state = copy.deepcopy((objective.state_dict(), encoder.state_dict()))
    torch.manual_seed(0)
    exact = objective(batch, encoder)
    torch.manual_seed(0)
    for module, before in zip((objective, encoder), state, strict=True):
        module.load_state_dict(before)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = objective(batch, encoder)
    assert rounded.keys() == exact.keys()
    for term in exact:
        assert rounded[term].dtype == torch.float32
        assert_close(rounded[term], exact[term], rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", objectives.known())
def test_the_published_tensors_rebuild_the_embeddings(name: str):
    objective, _, _ = steps(name)
    settings = objective.config["settings"]
    again = build(name, seed=1, **settings)
    published = objective.published()
    assert set(published) == set(again.published())
    again.load_state_dict(published, strict=False)
    features = randn(B, D)
    with torch.no_grad():
        assert_close(objective.eval().embed(features), again.eval().embed(features), rtol=0, atol=0)


@pytest.mark.parametrize("name", objectives.known())
def test_the_config_is_json_and_builds_the_same_modules(name: str):
    objective = build(name)
    config = json.loads(json.dumps(objective.config))
    assert (config["objective"], config["num_features"]) == (name, D)
    again = objectives.build(name, D, POLICY, **config["settings"])
    assert again.config == objective.config
    sizes = [{weight: tensor.shape for weight, tensor in o.state_dict().items()} for o in (again, objective)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("name", objectives.known())
def test_an_unknown_setting_is_refused_and_the_known_ones_listed(name: str):
    known = ", ".join(build(name).config["settings"]) or "none"
    with pytest.raises(ValueError, match=f"'{name}' has no setting bogus, wrong; known: {known}$"):
        objectives.build(name, D, POLICY, wrong=1, bogus=2)


def test_an_unknown_objective_is_refused_and_the_known_ones_listed():
    with pytest.raises(ValueError, match=r"'simcrl' not found; did you mean 'simclr'\? known: .*equimod, .*star_ss"):
        objectives.build("simcrl", D, POLICY)
    with pytest.raises(ValueError, match="'_routed' not found; known: "):
        objectives.find("_routed")


def test_settings_that_are_not_given_are_saved_too():
    assert build("star", num_experts=4).config["settings"] == {
        "num_experts": 4,
        "temperature": 0.2,
        "equivariant_weight": 1.0,
        "hidden": None,
        "embed_dim": 128,
        "agree": "nt_xent",
    }


def test_the_total_is_the_sum_of_the_terms():
    terms = {name: torch.tensor(value, requires_grad=True) for name, value in (("a", 1.5), ("b", -0.25), ("c", 4.0))}
    total = objectives.total(terms)
    total.backward()
    assert total == 5.25
    assert [term.grad for term in terms.values()] == [1.0, 1.0, 1.0]


# --- devices


@pytest.mark.parametrize("name", objectives.known())
def test_an_objective_is_attached_on_the_device_of_the_encoder(name: str):
    """The meta device is another one than the CPU, as CUDA is."""
    objective = build(name)
    encoder = twins.encoder(objective.policy, objective.needs_group).to("meta")
    objective.to("meta").attach(encoder)
    tensors = dict(objective.named_parameters()) | dict(objective.named_buffers())
    assert [name for name, tensor in tensors.items() if not tensor.is_meta] == []
