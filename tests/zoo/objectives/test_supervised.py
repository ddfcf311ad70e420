"""Supervised training: classes, numbers, and what is refused. Letters: B images, K target numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import twins
from twins import build, randn

B = 8


def parts():
    objective = build("supervised", num_classes=5)
    return objective, twins.encoder(objective.policy), twins.batch(objective, B)


def test_classes_are_learned_by_cross_entropy():
    objective, encoder, batch = parts()
    terms = objective(batch, encoder)
    terms["label"].backward()
    grads = [p.grad.clone() for p in encoder.parameters()]
    encoder.zero_grad()
    (features,) = encoder([encoder.augment(batch, 0)])
    logits = features @ objective.classifier.weight.T + objective.classifier.bias
    expected = -sum(logits[i].log_softmax(0)[t] for i, t in enumerate(batch.target)) / B
    expected.backward()
    assert list(terms) == ["label"]
    assert_close(terms["label"], expected)
    assert_close(grads, [p.grad for p in encoder.parameters()])


@pytest.mark.parametrize("count", [1, 3, 5])
def test_numbers_are_learned_by_mean_squared_error(count: int):
    objective, encoder, batch = parts()
    target = randn(B, count)
    terms = objective(batch._replace(target=target), encoder)
    (features,) = encoder([encoder.augment(batch, 0)])
    assert_close(terms["label"], F.mse_loss(objective.classifier(features)[:, :count], target))


def test_one_draw_is_planned():
    objective = build("supervised")
    assert torch.equal(objective.plan(20, 30, twins.generator(1))[0], objective.policy.draw(20, 30, twins.generator(1)))


def test_images_without_labels_are_refused():
    objective, encoder, batch = parts()
    with pytest.raises(ValueError, match="supervised needs labels, but the images have none; choose another objective"):
        objective(batch._replace(target=None), encoder)


def test_more_numbers_than_outputs_are_refused():
    objective, encoder, batch = parts()
    with pytest.raises(ValueError, match="labels are 6 numbers, but num_classes is 5; pass num_classes=6 or more"):
        objective(batch._replace(target=randn(B, 6)), encoder)
