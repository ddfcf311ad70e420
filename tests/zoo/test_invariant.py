"""Invariant projections: exact invariance, closed forms, and neighbours among turned digits.

Letters: B images, D features, G elements of the group, S image size.
"""

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.testing import assert_close

from digits import digits, turned
from small_groups import Small
from star_zoo import groups, wrappers
from star_zoo.augmentations import Crop, Policy
from star_zoo.groups import C4, D4, Group
from star_zoo.symmetry.projections import KINDS, Projection, cross_section
from star_zoo.wrappers import Wrapper
from star_zoo.wrappers.invariant import regular_features
from twins import MEAN, STD, backbone, generator, randn

B, D = 5, 6
BOTH = pytest.mark.parametrize("group", [C4, D4], ids=["c4", "d4"])
POLICY = Policy((Crop(32),), MEAN, STD)


def invariant(kind: str, group: str, network: nn.Module) -> Wrapper:
    return wrappers.build("invariant", [network], POLICY, kind=kind, group=group).eval()


# --- projections


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_a_projection_is_the_same_for_the_whole_orbit(kind: str, group: Group):
    z, project = randn(B, D, group.order), Projection(kind, group, D)
    expected = project(z)
    assert expected.shape == (B, project.num_features)
    assert not torch.allclose(expected[0], expected[1], atol=0.1)
    for g in range(group.order):
        assert (project(group.act_on_features(z, g)) - expected).abs().max() < 1e-6
        assert g == 0 or (group.act_on_features(z, g) - z).abs().max() > 0.1


def test_projections_in_closed_form():
    z = torch.tensor([[[1.0, 4.0, 2.0, 3.0], [0.0, 9.0, 5.0, 6.0]]])
    expected = {
        "mean": [2.5, 5.0],
        "max": [4.0, 9.0],
        "sort": [1.0, 2.0, 3.0, 4.0, 0.0, 5.0, 6.0, 9.0],
        "cross_section": [4.0, 2.0, 3.0, 1.0, 9.0, 5.0, 6.0, 0.0],  # the second element has the largest sum
    }
    for kind, values in expected.items():
        assert Projection(kind, C4, 2)(z).tolist() == [values], kind


@BOTH
def test_random_projections_are_mean_and_maximum_over_the_orbit_in_a_loop(group: Group):
    z, linear, largest = randn(B, D, group.order), *(Projection(f"random_{k}", group, D, 3) for k in ("linear", "max"))
    assert torch.equal(linear.weight, largest.weight)  # equal settings, equal weights
    assert linear.num_features == 3 and Projection("random_max", group, D).num_features == 64
    for b in range(B):
        rows = [linear.weight @ group.act_on_features(z[b], g).flatten() for g in range(group.order)]
        assert_close(linear(z)[b], sum(rows) / group.order)
        assert_close(largest(z)[b], torch.stack(rows).max(0).values)
    wide = Projection("random_linear", group, 40, 32).weight
    assert float(wide.std()) == pytest.approx(32**-0.5, rel=0.05)


@BOTH
def test_the_cross_section_is_an_element_of_the_orbit_and_idempotent(group: Group):
    z = randn(40, D, group.order)
    found = cross_section(group, z)
    assert torch.equal(found.sum(1).argmax(1), torch.zeros(40, dtype=torch.int64))
    assert torch.equal(cross_section(group, found), found)
    assert torch.equal(found.flatten(1).sort(1).values, z.flatten(1).sort(1).values)
    orbit = torch.stack([group.act_on_features(z, g) for g in range(group.order)])
    assert (orbit == found).flatten(2).all(2).any(0).all()
    assert len({int(k) for k in z.sum(1).argmax(1)}) == group.order  # every element was moved


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_element_that_counts(kind: str):
    z = randn(B, D, 4).requires_grad_()
    Projection(kind, C4, D)(z).square().sum().backward()
    assert z.grad.isfinite().all()
    assert torch.equal(z.grad != 0, z == z.amax(2, keepdim=True)) if kind == "max" else (z.grad != 0).any(1).all()


def test_unknown_kinds_and_widths_are_refused():
    with pytest.raises(ValueError, match="kind of projection 'sorted' not found; did you mean 'sort'"):
        Projection("sorted", C4, 2)
    with pytest.raises(ValueError, match="width of the projection is 0; it must be at least 1"):
        Projection("random_max", C4, 2, 0)


# --- the wrapper


@pytest.mark.parametrize(
    ("kind", "group", "size"),
    [("mean", "c4", 32), ("max", "d4", 48), ("sort", "c4", 64), ("cross_section", "d4", 96), ("random_max", "c4", 224)],
)
@torch.no_grad()
def test_features_of_turned_images_are_the_same_for_any_backbone(kind: str, group: str, size: int):
    own = Small(groups.find(group))
    for model in (own, backbone("test_resnet").eval()):
        wrapped, x = invariant(kind, group, model), randn(2, 3, size, size)
        expected = wrapped(x)
        for g in (1, groups.find(group).order - 1):
            error = wrapped(groups.find(group).act_on_images(x, g)) - expected
            assert float(error.norm() / expected.norm()) < 1e-5
        assert float((model(x.rot90(1, (2, 3))) - model(x)).norm() / model(x).norm()) > 1e-3 or model is own


@BOTH
@torch.no_grad()
def test_the_group_acts_on_regular_features_of_any_backbone(group: Group):
    for model in (Small(group), backbone("test_resnet").eval()):
        x = randn(2, 3, 32, 32)
        z = regular_features(model, x, group)
        for g in range(group.order):
            moved = regular_features(model, group.act_on_images(x, g), group)
            assert_close(moved, group.act_on_features(z, g), rtol=1e-4, atol=1e-5)


def test_a_group_backbone_is_projected_from_its_own_features_and_group():
    model = backbone("star_d4_resnet10t").eval()
    with pytest.raises(ValueError, match="group is c4; this model's regular features are d4's: use group=d4"):
        invariant("sort", "c4", model)
    wrapped, x = invariant("max", "d4", model), randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(wrapped(x), model.regular_features(x).amax(2))
    assert wrapped.num_features == model.num_features and invariant("sort", "d4", model).num_features == 8 * 181
    with pytest.raises(ValueError, match="group 'c8' not found"):
        invariant("sort", "c8", model)


@torch.no_grad()
def accuracies(seed: int, train: int, test: int) -> dict[str, float]:
    """5-NN accuracy on digits in random poses, by raw regular features of random weights and by projections."""
    model, made = Small(C4, seed), []
    for k, part in enumerate(digits(train, test, seed)):
        poses = turned(part.images, C4, 2 * seed + k)
        made.append((torch.cat([model.regular_features(x) for x in poses.split(128)]), part.labels))
    kinds = {"raw": nn.Flatten(), **{kind: Projection(kind, C4, made[0][0].shape[1]) for kind in ("sort", "max")}}

    def accuracy(project: nn.Module) -> float:
        (bank, labels), (queries, truth) = ((project(z).numpy(), y.numpy()) for z, y in made)
        return float(KNeighborsClassifier(5).fit(bank, labels).score(queries, truth))

    return {kind: accuracy(project) for kind, project in kinds.items()}


def test_neighbours_among_turned_digits_are_better_after_a_projection():
    found = accuracies(0, 600, 300)
    assert found["sort"] >= found["raw"] + 0.02 and found["max"] > found["raw"]


def test_equal_names_have_equal_features():
    x = randn(2, 3, 32, 32)
    with torch.no_grad():
        first, second = (invariant("random_max", "c4", backbone()) for _ in range(2))
        torch.randn(3, generator=generator(1))
        assert torch.equal(first(x), second(x)) and isinstance(first(x), Tensor)
