"""Transformation prediction: its labels are what was done to the view, its probe leaves the backbone alone.

Letters: B images, D features, K transformations.
"""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import twins
from star_zoo import Objective, Policy, objectives
from star_zoo.augmentations import Crop, Flip, Framing, Spirograph
from star_zoo.augmentations.policy import KNOWN
from star_zoo.objectives._transformation import TRANSFORMATIONS
from twins import MEAN, NUM_FEATURES, STD, build, generator

B = 8
KINDS = sorted(TRANSFORMATIONS)


def plain(kind: str) -> Objective:
    """Under a policy of a crop alone."""
    return objectives.build("transform_prediction", NUM_FEATURES, Policy((Crop(16),), MEAN, STD), kind=kind)


def test_the_transformations_are_those_of_the_study():
    sizes = {kind: len(made.values) for kind, made in TRANSFORMATIONS.items()}
    assert sizes == {
        "rotation": 4, "horizontal_flip": 2, "vertical_flip": 2, "grey": 2, "inversion": 2, "jigsaw": 24, "blur": 4
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_label_is_drawn_equally_often(kind: str):
    objective, g, count = plain(kind), generator(0), 150 * len(TRANSFORMATIONS[kind].values)
    params = torch.cat([objective.plan(20, 30, g) for _ in range(count)])
    labels = torch.bincount(objective.transformed(params), minlength=len(objective.values))
    assert len(labels) == len(objective.values)
    assert (labels - 150).abs().max() < 5 * 150**0.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_determines_what_is_done_to_a_view(kind: str):
    objective = plain(kind)
    x = torch.rand(1, 3, 16, 16, generator=generator(0))
    done = []
    for number, value in enumerate(objective.values):
        params = objective.policy.base(16, 16)[None]
        params[:, objective.column] = value
        assert objective.transformed(params).tolist() == [number]
        done.append(objective.policy.augmentations[-1].apply(x, params[:, 4:]))
    assert torch.equal(done[0], x)
    assert len({one.numpy().tobytes() for one in done}) == len(done)


@pytest.mark.parametrize("kind", KINDS)
def test_the_transformation_takes_the_place_of_its_like_in_the_policy(kind: str):
    augmentation = TRANSFORMATIONS[kind].augmentation
    objective = build("transform_prediction", kind=kind, augment=True)
    assert objective.policy.augmentations.count(augmentation) == 1
    assert objective.policy.fields == twins.POLICY.fields
    again = objectives.build("transform_prediction", NUM_FEATURES, objective.policy, kind=kind, augment=True)
    assert again.policy == objective.policy
    assert plain(kind).policy.augmentations == (Crop(16), augmentation)


def test_only_the_crop_and_the_transformation_act_by_default():
    crop, rotation = twins.POLICY.augmentations[0], TRANSFORMATIONS["rotation"].augmentation
    assert build("transform_prediction").policy.augmentations == (crop, rotation)
    kinds = [type(a) for a in build("explaining_away").policy.augmentations]
    assert kinds == [Crop, Flip, type(rotation)]


def test_renderings_can_be_rotated_too():
    policy = Policy((Spirograph(32),), MEAN, STD)
    assert objectives.build("transform_prediction", 8, policy).policy.fields == (*policy.fields, "quarter_turns")


@pytest.mark.parametrize("kind", ["rotation", "blur"])
def test_the_terms_are_two_cross_entropies(kind: str):
    objective = build("transform_prediction", kind=kind, hidden=5, num_classes=4)
    encoder, batch = twins.encoder(objective.policy), twins.batch(objective, B)
    terms = objective(batch, encoder)
    (features,) = encoder([encoder.augment(batch, 0)])
    first, second = objective.heads[0], objective.heads[2]
    logits = (features @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
    values = batch.params[0][:, objective.policy.fields.index(TRANSFORMATIONS[kind].augmentation.fields[0])]
    labels = [TRANSFORMATIONS[kind].values.index(round(v, 4)) for v in values.tolist()]
    expected = -sum(logits[i].log_softmax(0)[label] for i, label in enumerate(labels)) / B
    assert_close(terms["transformation"], expected)
    probe = -sum(objective.classifier(features)[i].log_softmax(0)[t] for i, t in enumerate(batch.target)) / B
    assert_close(terms["probe"], probe)


def test_the_probe_trains_itself_alone():
    objective = build("transform_prediction")
    encoder, batch = twins.encoder(objective.policy), twins.batch(objective, B)
    objective(batch, encoder)["probe"].backward()
    trained = {name for name, p in objective.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {"classifier.weight", "classifier.bias"}
    assert all(p.grad is None or not p.grad.any() for p in encoder.parameters())


def test_the_gradient_is_that_of_the_transformation_alone():
    objective = build("transform_prediction")
    encoder, batch = twins.encoder(objective.policy), twins.batch(objective, B)
    objectives.total(objective(batch, encoder)).backward()
    grads = [p.grad.clone() for p in encoder.parameters()]
    encoder.zero_grad()
    (features,) = encoder([encoder.augment(batch, 0)])
    F.cross_entropy(objective.heads(features), objective.transformed(batch.params[0])).backward()
    assert_close(grads, [p.grad for p in encoder.parameters()])


def test_without_labels_there_is_no_probe():
    objective = build("transform_prediction")
    encoder, batch = twins.encoder(objective.policy), twins.batch(objective, B)
    terms = objective(batch._replace(target=None), encoder)
    assert list(terms) == ["transformation"]
    assert_close(terms["transformation"], objective(batch, encoder)["transformation"])
    terms["transformation"].backward()
    assert not objective.classifier.weight.grad.any()  # a gradient, as DDP requires, but of zeros


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="transformation 'rotatoin' not found; did you mean 'rotation'"):
        build("transform_prediction", kind="rotatoin")
    with pytest.raises(ValueError, match="num_classes is 0; it must be at least 1"):
        build("transform_prediction", num_classes=0)


def test_no_transformation_makes_the_view():
    assert not any(issubclass(KNOWN[type(t.augmentation).__name__], Framing) for t in TRANSFORMATIONS.values())
    assert TRANSFORMATIONS["horizontal_flip"].augmentation == Flip(0.5)
