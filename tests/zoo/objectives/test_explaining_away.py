"""Explaining away: the label loss reaches the backbone not at all, as it is, or reversed. Letters: B images."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

import twins
from star_zoo import objectives
from star_zoo.objectives.explaining_away import scale_gradient
from twins import build, randn

B = 8


def gradients(**settings) -> tuple[dict[str, Tensor], list[Tensor], dict[str, Tensor]]:
    """The terms, and the gradients of the backbone and of the objective."""
    objective = build("explaining_away", num_classes=3, **settings)
    encoder, batch = twins.encoder(objective.policy), twins.batch(objective, B)
    terms = objective(batch, encoder)
    objectives.total(terms).backward()
    return (
        {name: value.detach() for name, value in terms.items()},
        [p.grad for p in encoder.parameters()],
        {name: p.grad for name, p in objective.named_parameters()},
    )


def plain(sign: float) -> list[Tensor]:
    """The backbone's gradient of CE(rotation) + sign * CE(label)."""
    objective = build("explaining_away", num_classes=3)
    encoder, batch = twins.encoder(objective.policy), twins.batch(objective, B)
    (features,) = encoder([encoder.augment(batch, 0)])
    turns = batch.params[0][:, objective.policy.fields.index("quarter_turns")].long()
    rotation = F.cross_entropy(objective.heads(features), turns)
    (rotation + sign * F.cross_entropy(objective.classifier(features), batch.target)).backward()
    return [p.grad for p in encoder.parameters()]


@pytest.mark.parametrize(("mode", "sign"), [("normal", 0.0), ("add", 1.0), ("eliminate", -1.0)])
def test_the_backbone_follows_the_mode(mode: str, sign: float):
    assert_close(gradients(mode=mode)[1], plain(sign))
    assert_close(gradients(mode=mode, label_weight=0.25)[1], plain(0.25 * sign))


def test_neither_terms_nor_heads_depend_on_the_mode():
    (terms, _, heads), *others = (gradients(mode=mode) for mode in ("normal", "add", "eliminate"))
    assert list(terms) == ["transformation", "label"]
    for other_terms, _, other_heads in others:
        assert other_terms == terms
        assert_close(other_heads, heads, rtol=0, atol=0)


def test_reversal_removes_what_the_classifier_knows():
    """Two features, of which one is the class: its scale shrinks by reversal and grows by addition."""
    moved = {}
    for factor in (-1.0, 0.0, 1.0):
        scale = torch.ones(2, requires_grad=True)
        labels = torch.arange(64) % 2
        x = torch.stack((2.0 * labels - 1, randn(64)), 1)
        weights = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
        F.cross_entropy(scale_gradient(x * scale, factor) @ weights.T, labels).backward()
        moved[factor] = -scale.grad
    assert moved[-1.0][0] < 0 == moved[0.0][0] < moved[1.0][0]
    assert_close(moved[-1.0], -moved[1.0])


def test_scaling_a_gradient_keeps_the_value():
    x = randn(5, 3).requires_grad_()
    assert torch.equal(scale_gradient(x, -0.3), x)
    scale_gradient(x, -0.3).sum().backward()
    assert_close(x.grad, torch.full((5, 3), -0.3))


def test_without_labels_rotations_are_predicted_alone():
    objective = build("explaining_away", mode="eliminate")
    batch = twins.batch(objective, B)._replace(target=None)
    assert list(objective(batch, twins.encoder(objective.policy))) == ["transformation"]


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode is 'remove'; known: normal, add, eliminate"):
        build("explaining_away", mode="remove")
