"""Views and what a model makes of them, against doing it image by image. Letters: N images, V views, P params."""

import pytest
import torch
from torch import nn

from star_training.data.views import seeded
from star_training.evaluation import embeddings
from star_training.evaluation.embeddings import base, base_all_and_each, base_and_drawn, embed, view
from star_training.evaluation.features import NotFinite, evaluating
from star_zoo import Objective, objectives
from star_zoo.augmentations import Crop, Flip, Policy
from twins import MEAN, POLICY, STD, build, generator, randn
from view_cases import Eye, Photos, Sees, blind, unchanged


@pytest.mark.parametrize("at_once", [1, 7, 512])
def test_views_are_drawn_and_seen_as_one_by_one(at_once: int, monkeypatch):
    monkeypatch.setattr(embeddings, "_AT_ONCE", at_once)
    model, source = Sees(), Photos(5)
    found = view(model, source, base_and_drawn(2), seed=3, epoch=4)
    assert found.params.shape == (5, 3, len(POLICY.fields)) and found.features.shape == (5, 3, 8)
    for index in range(5):
        g = seeded(3, 4, index)
        params = torch.stack([POLICY.base(20, 20), POLICY.draw(20, 20, g), POLICY.draw(20, 20, g)])
        assert torch.equal(found.params[index], params)
        crops = torch.stack([POLICY.crop(source[index], p) for p in params])
        with evaluating(model.backbone):
            features = model.backbone(POLICY.apply(crops, params))
        torch.testing.assert_close(found.features[index], features)


def test_views_are_the_same_again_and_others_in_another_epoch():
    model, source = Sees(), Photos(6)
    one, again = (view(model, source, base_and_drawn(1), 0) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    other = view(model, source, base_and_drawn(1), 0, epoch=1)
    assert torch.equal(other.features[:, 0], one.features[:, 0])
    assert not torch.equal(other.params[:, 1], one.params[:, 1])


def test_a_model_comes_back_as_it_came():
    model = Sees(build("star"))
    same = unchanged(model)
    found = view(model, Photos(5), base, 0)
    embed(model.objective, found.features)
    assert same() and not found.features.requires_grad


def test_features_and_embeddings_that_are_not_finite_are_refused():
    with pytest.raises(NotFinite, match="4 of 4 images have features that are not finite"):
        view(Sees(backbone=blind()), Photos(4), base, 0)
    features = randn(5, 2, 8)
    features[3, 1, 0] = torch.inf
    with pytest.raises(NotFinite, match="1 of 5 images have z_inv that are not finite"):
        embed(build("star"), features)


def test_features_that_are_too_many_to_measure_are_refused(monkeypatch):
    monkeypatch.setattr(embeddings, "_WIDEST", 7)
    with pytest.raises(ValueError, match="eye has 8 features; this is measured for at most 7"):
        view(Sees(), Photos(4), base, 0)


# Embeddings


@pytest.mark.parametrize("name", objectives.known())
def test_every_embedding_of_an_objective_is_found(name: str):
    objective = build(name)
    features = randn(4, 3, 8)
    found = embed(objective, features)
    with evaluating(objective):
        made = objective.embed(features.flatten(0, 1))
    assert list(found) == list(made)
    for z, rows in zip(found.values(), made.values(), strict=True):
        assert z.shape == (4, 3, rows.shape[1])
        torch.testing.assert_close(z.flatten(0, 1), rows)


def test_a_single_head_gives_the_invariant_embedding_alone():
    assert list(embed(build("simclr"), randn(3, 8))) == ["z_inv"]
    assert embed(None, randn(3, 8)) == {}


def test_rows_are_embedded_in_batches_as_at_once(monkeypatch):
    objective, features = build("star"), randn(20, 8)
    whole = embed(objective, features)
    monkeypatch.setattr(embeddings, "_AT_ONCE", 3)
    for name, z in embed(objective, features).items():
        torch.testing.assert_close(z, whole[name])


def test_an_objective_has_any_number_of_named_embeddings():
    class Named(Objective):
        def embed(self, features):
            return {"space 1": features[:, :2], "space 2": 2 * features, "space 3": -features}

    features = randn(3, 2, 8)
    assert embed(Objective(POLICY), features) == {}
    found = embed(Named(POLICY), features)
    assert list(found) == ["space 1", "space 2", "space 3"]
    torch.testing.assert_close(found["space 2"], 2 * features)
    torch.testing.assert_close(found["space 1"], features[..., :2])


# View plans


def test_columns_are_those_of_the_fields():
    found = POLICY.columns
    assert list(found) == [type(a).__name__ for a in POLICY.augmentations]
    assert POLICY.fields[found["ColorJitter"]] == ("brightness", "contrast", "saturation", "hue")
    assert [k for part in found.values() for k in range(part.start, part.stop)] == list(range(len(POLICY.fields)))


def test_each_augmentation_acts_alone():
    for seed in range(20):
        start, _, *alone = base_all_and_each(POLICY, 20, 30, generator(seed))
        assert torch.equal(start, POLICY.base(20, 30)) and len(alone) == len(POLICY.augmentations)
        for row, part in zip(alone, POLICY.columns.values(), strict=True):
            differs = (row != start).nonzero().flatten().tolist()
            assert differs and set(differs) <= set(range(part.start, part.stop))


def test_an_augmentation_that_never_acts_stays_at_the_base():
    policy = Policy((Crop(16), Flip(p=0.0)), MEAN, STD)
    start, _, crop, flip = base_all_and_each(policy, 20, 20, generator(0))
    assert torch.equal(flip, start) and not torch.equal(crop, start)


def test_the_base_plan_is_the_base_view():
    assert torch.equal(base(POLICY, 20, 30, generator(0)), POLICY.base(20, 30)[None])


def test_a_backbone_without_weights_is_on_the_cpu():
    assert embeddings.device(nn.Flatten()) == torch.device("cpu")
    assert embeddings.device(Eye()) == torch.device("cpu")
