"""inv_eq: its 16 views, its three losses in loops, the memory bank, and distillation.

Letters: B images, T transformations, D features, O embedding size.
"""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import twins
from star_zoo import Policy, objectives
from star_zoo.augmentations import Crop, Flip, Spirograph
from star_zoo.momentum import FrozenCopy
from star_zoo.objectives.inv_eq import divergence
from twins import MEAN, NUM_FEATURES, STD, build, generator, randn

B, T = 4, 16
POLICY = Policy((Crop(16), Flip()), MEAN, STD)
SMALL = {"images": 40, "negatives": 10, "embed_dim": 5, "num_classes": 3}


def parts(**settings):
    torch.manual_seed(0)
    objective = objectives.build("inv_eq", NUM_FEATURES, POLICY, **(SMALL | settings))
    encoder = twins.encoder(objective.policy)
    objective.attach(encoder)
    return objective, encoder, twins.batch(objective, B)


# The views


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 30)])
@pytest.mark.parametrize("unit", ["fraction", "pixel"])
def test_the_views_are_four_crops_times_four_rotations(height: int, width: int, unit: str):
    policy = Policy((Crop(16, unit=unit), Flip()), MEAN, STD)
    objective = objectives.build("inv_eq", NUM_FEATURES, policy, **SMALL)
    plan = objective.plan(height, width, generator(0))
    fields = objective.policy.fields
    assert plan.shape == (T, len(fields))
    assert plan[:, fields.index("quarter_turns")].tolist() == [0, 1, 2, 3] * 4
    scale = torch.ones(4) if unit == "pixel" else torch.tensor([height, width, height, width])
    side = min(height, width)
    boxes = plan[:, :4] * scale
    part = 22 / 32 * side
    for row, (h, w) in enumerate([(side, side)] * 4 + [(part, side)] * 4 + [(side, part)] * 4 + [(part, part)] * 4):
        assert boxes[row, 2:].tolist() == pytest.approx([h, w], rel=1e-5)
        for start, length, whole in ((boxes[row, 0], h, height), (boxes[row, 1], w, width)):
            assert (whole - side) // 2 - 1e-3 <= start <= (whole - side) // 2 + side - length + 1e-3
    assert len(boxes[12:, 0].unique()) == 4  # offsets are drawn anew
    assert len(plan[:, fields.index("flip")].unique()) == 2


def test_renderings_have_the_four_rotations_alone():
    objective = objectives.build("inv_eq", NUM_FEATURES, Policy((Spirograph(32),), MEAN, STD))
    plan = objective.plan(1, 1, generator(0))
    assert plan[:, -1].tolist() == [0, 1, 2, 3]
    assert len(plan[:, 0].unique()) == 4
    assert objective.heads.equivariant[-1].out_features == 4


# The losses


def slow_invariant(objective, embeddings, index):
    """The paper's loss in loops over images and transformations: embeddings (T, B, O) before an update of the bank."""
    bank, losses = objective.bank.rows, []
    stride = len(bank) // 10
    numbers = [(int(objective.bank.updates) + k * stride) % len(bank) for k in range(10)]

    def cos(a, b):
        return (a @ b) / a.norm() / b.norm()

    for i, own in enumerate(index.tolist()):
        for t in range(T):
            a, b = (bank[own] if t == 0 else embeddings[0, i]), embeddings[t, i]
            others = sum(cos(b, bank[n]).exp() for n in numbers if n != own)
            losses.append(-(cos(a, b).exp() / (cos(a, b).exp() + others)).log())
    return sum(losses) / len(losses)


def test_terms_and_gradients_equal_loops():
    objective, encoder, batch = parts()
    before = objective.bank.rows.clone()
    terms = objective(batch, encoder)
    images = torch.cat([encoder.augment(batch, view) for view in range(T)])
    (features,) = encoder([images])
    _, logits, embeddings = objective.heads(features)
    after, objective.bank.rows = objective.bank.rows, before
    objective.bank.updates.zero_()
    invariant = slow_invariant(objective, embeddings.unflatten(0, (T, B)), batch.index)
    equivariant = -sum(logits[t * B + i].log_softmax(0)[t] for t in range(T) for i in range(B)) / (T * B)
    labels = objective.heads.classifier(features).log_softmax(1)
    classes = -sum(labels[t * B + i, batch.target[i]] for t in range(T) for i in range(B)) / (T * B)
    assert_close(terms, {"equivariant": equivariant, "invariant": invariant, "class": classes})
    weights = list(encoder.parameters())
    ours, theirs = (torch.autograd.grad(x, weights) for x in (terms["invariant"], invariant))
    assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    first = F.normalize(embeddings.unflatten(0, (T, B))[0].detach(), dim=1)
    assert_close(after[batch.index], 0.99 * before[batch.index] + 0.01 * first)


def test_without_labels_the_classes_are_left_out():
    objective, encoder, batch = parts()
    state = {name: t.clone() for name, t in objective.state_dict().items()}
    with_labels = objective(batch, encoder)
    objective.load_state_dict(state)
    without = objective(batch._replace(target=None), encoder)
    assert set(with_labels) - set(without) == {"class"}
    assert_close(without, {name: with_labels[name] for name in without})
    objectives.total(without).backward()
    assert not objective.heads.classifier.weight.grad.any()


def test_gamma_weighs_both_terms_of_transformations():
    (objective, encoder, batch), (other, _, _) = parts(), parts(gamma=0.5)
    a, b = objective(batch, encoder), other(batch, encoder)
    assert_close([b["equivariant"], b["invariant"], b["class"]], [a["equivariant"] / 2, a["invariant"] / 2, a["class"]])


def test_the_bank_changes_only_while_training():
    objective, encoder, batch = parts()
    before = objective.bank.rows.clone()
    objective.eval()(batch, encoder)
    assert torch.equal(objective.bank.rows, before)
    objective.train()(batch, encoder)
    moved = (objective.bank.rows != before).any(1).nonzero().flatten()
    assert moved.tolist() == batch.index.tolist()
    assert not any("bank" in name for name in objective.published())


# Distillation


def test_distillation_is_zero_from_the_teacher_itself():
    objective, encoder, batch = parts(distil=1.0)
    terms = objective.eval()(batch, encoder.eval())
    assert_close(terms["distillation"], torch.zeros(()))


def test_distillation_equals_its_four_terms():
    objective, encoder, batch = parts(distil=0.5)
    with torch.no_grad():
        for p in (*encoder.parameters(), *objective.heads.parameters()):
            p.add_(0.1 * randn(*p.shape))
    found = objective(batch, encoder)["distillation"]
    images = torch.cat([encoder.augment(batch, view) for view in range(T)])
    (features,) = encoder([images])
    outputs = objective.heads(features)
    teacher, heads = objective.teacher
    (taught,) = teacher([images])
    expected = F.mse_loss(features, taught)
    for k, (ours, theirs) in enumerate(zip(outputs, heads(taught), strict=True)):
        if k == 2:
            expected = expected + F.mse_loss(ours, theirs)
            continue
        p, q = (theirs / 4).softmax(1), (ours / 4).softmax(1)
        expected = expected + 16 * (p * (p.log() - q.log())).sum(1).mean()
    assert_close(found, 0.5 * expected)


def test_the_teacher_never_changes_and_is_not_published():
    objective, encoder, batch = parts(distil=1.0)
    before = {name: t.clone() for name, t in objective.teacher.state_dict().items()}
    optimizer = torch.optim.SGD([*objective.parameters(), *encoder.parameters()], 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        objectives.total(objective.train()(batch, encoder.train())).backward()
        optimizer.step()
        objective.after_step(encoder, 0.5)
    assert_close(dict(objective.teacher.state_dict()), before, rtol=0, atol=0)
    assert not any(p.requires_grad for p in objective.teacher.parameters())
    assert not any("teacher" in name for name in objective.published())


def test_a_frozen_copy_stays_in_eval_mode():
    copy = FrozenCopy(torch.nn.BatchNorm1d(3))
    assert not copy.module.training
    torch.nn.Sequential(copy).train()
    assert not copy.module.training
    copy(randn(8, 3))
    assert copy.module.num_batches_tracked == 0


def test_the_divergence_has_a_closed_form():
    a, b = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    p = torch.tensor([1.0, 0.0]).softmax(0)
    assert_close(divergence(a, a), torch.zeros(()))
    assert_close(divergence(a, b), 16 * (0.5 * (0.5 / p).log()).sum())


def test_the_defaults_are_the_released_codes():
    assert build("inv_eq").config["settings"] == {
        "num_classes": 1000, "gamma": 1.0, "temperature": 1.0, "embed_dim": 64, "images": 50_000, "negatives": 6400,
        "bank_momentum": 0.99, "distil": 0.0,
    }  # fmt: skip
