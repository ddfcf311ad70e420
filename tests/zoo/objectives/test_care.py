"""CARE's term against loops and orthogonal maps. Letters: B images, O embedding size, D features."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import twins
from star_zoo.losses import nt_xent
from star_zoo.objectives.care import changed_angles
from twins import NUM_FEATURES, build, randn

B, O, D = 6, 5, NUM_FEATURES  # noqa: E741


def slow(a: Tensor, b: Tensor, chunk: int) -> Tensor:
    chunks = []
    for start in range(0, len(a), chunk):
        images, total = range(start, start + chunk), torch.zeros(())
        for i in images:
            for j in (j for j in images if j != i):
                angles = [z[i] @ z[j] / (z[i].norm() * z[j].norm()) for z in (a, b)]
                total = total + (angles[0] - angles[1]) ** 2
        chunks.append(2 * total / chunk)
    return torch.stack(chunks).mean()


@pytest.mark.parametrize("chunk", [2, 3, 6])
def test_the_term_and_its_gradients_equal_loops(chunk: int):
    fast, loops = ([randn(B, O, seed=v).requires_grad_() for v in (0, 1)] for _ in range(2))
    term, expected = changed_angles(*fast, chunk), slow(*loops, chunk)
    assert_close(term, expected)
    term.backward(), expected.backward()
    assert_close([x.grad for x in fast], [x.grad for x in loops])


def test_orthogonal_maps_change_no_angle_and_others_do():
    z, q = randn(B, O).double(), torch.linalg.qr(randn(O, O, seed=1).double())[0]
    assert changed_angles(z, z @ q, 3) < 1e-10
    assert changed_angles(z, 2 * z, 3) < 1e-10  # lengths do not matter
    assert changed_angles(z, z @ randn(O, O, seed=2).double(), 3) > 0.01


def test_each_chunk_may_have_a_map_of_its_own():
    z = randn(B, O)
    maps = [torch.linalg.qr(randn(O, O, seed=k))[0] for k in (1, 2)]
    moved = torch.cat([part @ q for part, q in zip(z.chunk(2), maps, strict=True)])
    assert changed_angles(z, moved, 3) < 1e-10 and changed_angles(z, moved, 6) > 0.01


def test_terms_are_nt_xent_and_the_weighted_angles_of_one_head():
    objective = build("care", chunk=2, equivariant_weight=0.25, temperature=0.4)
    f1, f2 = randn(B, D), randn(B, D, seed=1)
    terms = objective.terms([f1, f2], [])
    z1, z2 = objective.heads(f1), objective.heads(f2)
    assert_close(terms, {"invariant": nt_xent(z1, z2, 0.4), "equivariant": 0.25 * changed_angles(z1, z2, 2)})
    assert torch.equal(objective.eval().embed(f1)["z_inv"], objective.heads(f1))


def test_the_images_of_a_chunk_share_both_augmentations():
    objective = build("care", chunk=4)
    assert objective.share == 4
    for params in twins.batch(objective, 8).params:
        assert len(params[:4].unique(dim=0)) == len(params[4:].unique(dim=0)) == 1
        assert not torch.equal(params[0], params[4])


def test_a_chunk_of_one_image_is_refused():
    with pytest.raises(ValueError, match="chunk is 1; it must be at least 2 images"):
        build("care", chunk=1)
