"""LooC against its formula in loops, InfoNCE as its special case, and its momentum form.

Letters: B images, D features, O embedding size, S spaces.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

import twins
from star_zoo import Objective, Policy, objectives
from star_zoo.augmentations import Spirograph
from star_zoo.objectives import looc
from twins import NUM_FEATURES, POLICY, build, generator, randn

B, D = 5, NUM_FEATURES
TWO = {"colours": ["ColorJitter", "Grayscale"], "blur": ["blur_sigma"]}


def views(objective: Objective) -> list[Tensor]:
    return [randn(B, D, seed=v).requires_grad_() for v in range(len(objective.factors) + 2)]


def slow(objective: Objective, features: list[Tensor], others: list[list[Tensor]] | None = None) -> list[Tensor]:
    """The sum over queries of -log(positive / candidates), score by score; `others` replace those of the batch."""
    losses = []
    for space in range(len(objective.factors) + 1):
        embedded = [F.normalize(objective.heads.spaces[space](x), dim=1) for x in features]
        query, keys = embedded[0], embedded[1:]
        total = torch.zeros(())
        for b in range(B):
            scores = {v: (query[b] @ key[b] / objective.temperature).exp() for v, key in enumerate(keys)}
            if space == 0:
                scores = {0: scores[0]}
            negatives = others[space] if others else [key[k] for key in keys for k in range(B) if k != b]
            rest = sum((query[b] @ F.normalize(n, dim=0) / objective.temperature).exp() for n in negatives)
            total = total - (scores[space] / (sum(scores.values()) + rest)).log()
        losses.append(total / B / (len(objective.factors) + 1))
    return losses


def test_terms_and_gradients_equal_the_formula_in_loops():
    objective = build("looc", factors=TWO, temperature=0.3, embed_dim=6)
    fast, loops = views(objective), views(objective)
    terms, expected = objective.terms(fast, []), slow(objective, loops)
    assert list(terms) == ["invariant", "colours", "blur"]
    assert_close(list(terms.values()), expected)
    sum(terms.values()).backward()
    sum(expected).backward()
    assert_close([x.grad for x in fast], [x.grad for x in loops])


def test_without_factors_it_is_info_nce():
    objective = build("looc", factors={})
    query, key = views(objective)
    q, k = (F.normalize(objective.heads.spaces[0](x), dim=1) for x in (query, key))
    assert_close(objective.terms([query, key], []), {"invariant": F.cross_entropy(q @ k.T / 0.2, torch.arange(B))})


def test_with_everything_in_one_factor_both_spaces_are_info_nce():
    """The factor's key is the query itself: its space distinguishes each view from all others."""
    objective = build("looc", factors={"all": list(POLICY.fields)})
    plan = objective.plan(20, 30, generator(0))
    assert torch.equal(plan[0], plan[2]) and not torch.equal(plan[0], plan[1])
    query, fresh = views(objective)[:2]
    terms = objective.terms([query, fresh, query], [])
    q, k = (F.normalize(objective.heads.spaces[1](x), dim=1) for x in (query, fresh))
    expected = F.cross_entropy(q @ torch.cat((q, k)).T / 0.2, torch.arange(B))
    assert_close(terms["all"], expected / 2)
    logits = torch.cat([F.normalize(objective.heads.spaces[0](x), dim=1) for x in (fresh, query)])
    scores = F.normalize(objective.heads.spaces[0](query), dim=1) @ logits.T / 0.2
    own = torch.cat((torch.zeros(B, B), torch.eye(B)), 1).bool()
    assert_close(terms["invariant"], F.cross_entropy(scores.masked_fill(own, -math.inf), torch.arange(B)) / 2)


def test_two_processes_compute_what_one_does(monkeypatch: pytest.MonkeyPatch):
    objective = build("looc", factors=TWO, embed_dim=6)
    whole = [randn(2 * B, D, seed=v) for v in range(4)]
    own = torch.stack([objective.heads(x) for x in whole[1:]], 1).permute(2, 0, 1, 3)
    monkeypatch.setattr(looc, "gather_with_grad", lambda _: own)
    found = []
    for rank in (0, 1):
        monkeypatch.setattr(looc, "rank", lambda rank=rank: rank)
        found.append(objective.terms([x[rank * B :][:B] for x in whole], []))
    monkeypatch.undo()
    together = objective.terms(whole, [])
    assert_close({name: (found[0][name] + found[1][name]) / 2 for name in together}, together)


def test_each_factors_key_shares_its_fields_and_no_others():
    objective = build("looc", factors=TWO)
    query, fresh, *shared = objective.plan(200, 300, generator(1))
    fields = {"colours": {"brightness", "contrast", "saturation", "hue", "grayscale"}, "blur": {"blur_sigma"}}
    assert {POLICY.fields[k] for k in range(len(query)) if query[k] != fresh[k]} >= {"top", "left", "brightness"}
    for key, factor in zip(shared, fields, strict=True):
        columns = [POLICY.fields.index(field) for field in fields[factor]]
        assert torch.equal(key[columns], query[columns])
        assert objective.factors[factor] == tuple(sorted(columns))
        assert (key != query)[:4].any() and not torch.equal(key, fresh)


def test_the_default_factors_are_all_augmentations_but_crop_and_flip():
    names = [type(a).__name__ for a in build("looc").policy.augmentations]
    assert list(build("looc").factors) == [n for n in names if n not in ("Crop", "Flip")]
    assert {"QuarterTurn", "ColorJitter", "Grayscale", "Solarize", "Blur"} < set(names)
    policy = Policy((Spirograph(16),), twins.MEAN, twins.STD)
    assert objectives.build("looc", D, policy).factors == {"Spirograph": (0, 1, 2, 3, 4, 5)}


def test_embeddings_are_named_by_their_spaces():
    objective, features = build("looc", factors=TWO, embed_dim=6), randn(B, D)
    assert list(objective.embed(features)) == ["z_inv", "z_colours", "z_blur"]
    assert torch.equal(objective.embed(features)["z_blur"], objective.heads.spaces[2](features))


def test_momentum_keys_meet_the_queues_of_earlier_batches():
    objective = build("looc", factors=TWO, queue=12, momentum=0.5, embed_dim=6)
    encoder, batch = twins.encoder(objective.policy), twins.batch(objective, B)
    objective.attach(encoder)
    queues = [list(queue.rows.clone()) for queue in objective.queues]
    terms = objective(batch, encoder)
    images = [encoder.augment(batch, view) for view in range(4)]
    features = [encoder([x])[0] for x in images]
    assert_close(list(terms.values()), slow(objective, features, queues), rtol=1e-4, atol=1e-5)
    for space, queue in enumerate(objective.queues):
        assert_close(queue.rows[:B], F.normalize(objective.heads.spaces[space](features[1]), dim=1))
        assert_close(list(queue.rows[B:]), queues[space][B:])
    sum(terms.values()).backward()
    weights = dict(objective.named_parameters())
    assert all((p.grad is None) == ("_copy." in name) for name, p in weights.items())


@torch.no_grad()
def test_copies_follow_the_weights_and_are_not_published():
    objective = build("looc", factors=TWO, queue=12, momentum=0.5, embed_dim=6)
    encoder = twins.encoder(objective.policy)
    objective.attach(encoder)
    before, copied = encoder.backbone.stem[0].weight.clone(), objective.encoder_copy.module.backbone.stem[0]
    encoder.backbone.stem[0].weight.zero_()
    objective.after_step(encoder, 0.5)
    assert_close(copied.weight, before / 2)
    assert set(objective.published()) == set(build("looc", factors=TWO, embed_dim=6).published())


def test_evaluation_leaves_the_queue_as_it_is():
    objective = build("looc", factors=TWO, queue=3, embed_dim=6)
    encoder = twins.encoder(objective.policy)
    objective.attach(encoder)
    before = objective.queues[0].rows.clone()
    objective.eval()(twins.batch(objective, B), encoder)
    assert torch.equal(objective.queues[0].rows, before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factors": {"a": ["Crop", "hew"]}}, "member of factor 'a' 'hew' not found; did you mean 'hue'"),
        ({"factors": {"a": []}}, "factor 'a' is \\[\\]; pass a list of fields or augmentations"),
        ({"factors": {"a": "hue"}}, "factor 'a' is 'hue'; pass a list"),
        ({"factors": {"inv": ["hue"]}}, "named invariant or inv"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be positive"),
        ({"momentum": 1.0}, "momentum is 1.0; it must be at least 0 and below 1"),
        ({"queue": -1}, "the queue's size is -1; it must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build("looc", **settings)
