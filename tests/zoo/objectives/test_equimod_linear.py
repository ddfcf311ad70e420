"""EquiMod's published predictor: its formula, and what stays as it was."""

import pytest
import torch
from torch.testing import assert_close

from star_zoo.heads import ShiftPredictor
from twins import NUM_FEATURES, POLICY, build, generator, randn


def standard(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()


def test_the_predictor_is_one_linear_layer_of_embedding_and_encoded_params():
    objective = build("equimod", predictor="linear", embed_dim=12).double()
    predictor, z = objective.shift_predictor, randn(6, 12).double()
    g = generator(0)
    params = torch.stack([POLICY.draw(20, 30, g) for _ in range(6)]).double()
    mean, std = (s.double() for s in POLICY.field_statistics)
    linear, norm = predictor.encode
    scaled = (params - mean) / torch.where(std > 0, std, torch.ones_like(std))
    encoded = standard(scaled @ linear.weight.T + linear.bias) * norm.weight + norm.bias
    expected = standard(torch.cat((z, encoded), 1) @ predictor.linear.weight.T)
    assert_close(objective.predict(z, params), expected)
    assert predictor.linear.bias is None and not predictor.norm.affine


def test_the_heads_end_in_batch_norm_by_view():
    objective = build("equimod", predictor="linear", embed_dim=12)
    features = randn(6, NUM_FEATURES), 3 * randn(6, NUM_FEATURES, seed=1) + 1
    plain = build("equimod", embed_dim=12)
    plain.heads.load_state_dict(objective.heads.state_dict(), strict=False)
    for z, before in zip(objective.heads(torch.cat(features), 2), plain.heads(torch.cat(features), 2), strict=True):
        for view, old in zip(z.chunk(2), before.chunk(2), strict=True):
            assert_close(view, standard(old), rtol=1e-4, atol=1e-4)
    inv, eq = objective.eval().embed(features[0]).values()
    assert inv.shape == eq.shape == (6, 12)
    assert objective.routing(features[0]).shape == (6, 2, 2)


def test_the_default_is_stars_predictor_and_other_names_are_refused():
    assert isinstance(build("equimod").shift_predictor, ShiftPredictor)
    with pytest.raises(ValueError, match="predictor 'linaer' not found; did you mean 'linear'"):
        build("equimod", predictor="linaer")
