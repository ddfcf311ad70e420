"""SER's turns, its term in loops, its control, and its maps in a ViT and a ResNet.

Letters: N images, C channels, S size, B images of a batch.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

import twins
from star_zoo import Encoder, Policy
from star_zoo.augmentations import ColorJitter, Crop, Flip
from star_zoo.losses import nt_xent
from star_zoo.objectives import ser
from star_zoo.objectives.ser import positions_agree, turn
from twins import MEAN, POLICY, STD, build, generator, randn

N, C, S = 3, 4, 2


def element(x: Tensor, k: int) -> Tensor:
    """One image turned by element k of D4: (C, S, S) -> (C, S, S)."""
    turned = x.rot90(k % 4, (-2, -1))
    return turned.flip(-1) if k >= 4 else turned


def slow(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Position by position: the same position of the same image among all positions of the other images."""
    losses = []
    for queries, keys in ((a, b), (b, a)):
        for n in range(len(a)):
            for i in range(S):
                for j in range(S):

                    def score(m: int, k: int, q: int) -> Tensor:
                        return F.cosine_similarity(queries[n, :, i, j], keys[m, :, k, q], dim=0) / temperature  # noqa: B023

                    rest = [score(m, k, q) for m in range(len(a)) if m != n for k in range(S) for q in range(S)]
                    losses.append(torch.stack((score(n, i, j), *rest)).logsumexp(0) - score(n, i, j))
    return torch.stack(losses).mean()


def test_the_term_and_its_gradients_equal_loops():
    fast, loops = ([randn(N, C, S, S, seed=v).requires_grad_() for v in (0, 1)] for _ in range(2))
    term, expected = positions_agree(*fast, 0.5), slow(*loops, 0.5)
    assert_close(term, expected)
    term.backward(), expected.backward()
    assert_close([x.grad for x in fast], [x.grad for x in loops])


def test_two_processes_compute_what_one_does(monkeypatch: pytest.MonkeyPatch):
    a, b = randn(2 * N, C, S, S), randn(2 * N, C, S, S, seed=1)
    whole, sides = positions_agree(a, b, 0.5), {}
    for x in (a, b):
        tokens = F.normalize(x.flatten(2).mT, dim=2)
        sides |= {tuple(tokens[rank * N].flatten()[:3].tolist()): tokens for rank in (0, 1)}
    monkeypatch.setattr(ser, "gather_with_grad", lambda x: sides[tuple(x[0].flatten()[:3].tolist())])
    found = []
    for rank in (0, 1):
        monkeypatch.setattr(ser, "rank", lambda rank=rank: rank)
        found.append(positions_agree(a[rank * N :][:N], b[rank * N :][:N], 0.5))
    assert_close((found[0] + found[1]) / 2, whole)


def test_each_image_is_turned_by_the_element_of_its_place():
    x = randn(11, C, 5, 5)
    assert torch.equal(turn(x), torch.stack([element(image, k % 8) for k, image in enumerate(x)]))
    turned = {tuple(element(x[0], k).flatten().tolist()) for k in range(8)}
    assert len(turned) == 8  # all of D4, each once
    assert torch.equal(torch.cat((turn(x[:3]), turn(x[3:], 3))), turn(x))  # over two processes as in one


def test_an_equivariant_map_agrees_with_the_turned_map():
    images = randn(8, 3, 6, 6)
    kernel = randn(5, 3, 1, 1)  # a convolution of one pixel commutes with turns
    first, second = F.conv2d(images, kernel), F.conv2d(turn(images), kernel)
    assert_close(turn(first), second)
    assert positions_agree(turn(first), second, 0.05) < positions_agree(first, second, 0.05) - 0.1


def test_the_last_two_views_keep_their_place_and_change_their_colours():
    plan, base = build("ser").plan(20, 30, generator(0)), POLICY.base(20, 30)
    moving = [POLICY.fields.index(f) for f in ("top", "left", "height", "width", "flip", "quarter_turns")]
    others = [k for k in range(len(base)) if k not in moving]
    assert torch.equal(plan[2, moving], base[moving]) and torch.equal(plan[3, moving], base[moving])
    assert not torch.equal(plan[2, others], plan[3, others])
    assert (plan[:2, moving] != base[moving]).any(1).all()


def attached(**settings) -> tuple:
    torch.manual_seed(0)
    objective = build("ser", every=3, **settings)
    encoder, batch = twins.encoder(objective.policy), twins.batch(objective, 8)
    objective.attach(encoder)
    return objective, encoder, batch


def test_turned_images_take_part_in_both_terms_and_the_others_in_one():
    objective, encoder, batch = attached(temperature=0.3, equivariant_weight=0.5)
    terms = objective(batch, encoder)
    views = [encoder.augment(batch, view) for view in range(4)]
    upright, others = views[2][[0, 3, 6]], [1, 2, 4, 5, 7]
    turned = torch.stack([element(image, k) for k, image in enumerate(views[3][[0, 3, 6]])])
    features = encoder([torch.cat((upright, views[0][others])), torch.cat((turned, views[1][others]))])
    z1, z2 = map(objective.heads, features)
    (first,), (second,) = encoder.maps([upright, turned], [2])
    maps = torch.stack([element(x, k) for k, x in enumerate(objective.projector(first))]), objective.projector(second)
    expected = {"invariant": nt_xent(z1, z2, 0.3), "equivariant": 0.5 * positions_agree(*maps, 0.5)}
    assert_close(terms, expected, rtol=1e-4, atol=1e-5)


def test_the_control_has_the_same_invariant_term_and_no_projector():
    (plain, encoder, batch), (objective, other, _) = attached(equivariant_weight=0.0), attached()
    terms = plain(batch, encoder)
    assert list(terms) == ["invariant"]
    assert torch.equal(terms["invariant"], objective(batch, other)["invariant"])
    assert not hasattr(plain, "projector") and set(plain.state_dict()) == set(objective.published())


def test_a_batch_of_two_has_a_finite_loss():
    objective = build("ser")
    encoder = twins.encoder(objective.policy)
    objective.attach(encoder)
    terms = objective.eval()(twins.batch(objective, 2), encoder.eval())  # as when settings are tried out
    assert all(term.isfinite() for term in terms.values())


@pytest.mark.parametrize(("name", "layer"), [("test_vit", 2), ("test_resnet", 3), ("test_resnet", -1)])
def test_it_trains_a_vit_and_a_resnet(name: str, layer: int):
    policy = Policy((Crop(32), Flip(), ColorJitter()), MEAN, STD)
    extra = {"img_size": 32} if "vit" in name else {}
    backbone: nn.Module = twins.backbone(name, **extra)
    objective = ser.SER(backbone.num_features, policy, layer=layer, every=2, project=16)
    encoder = Encoder(policy, backbone)
    objective.attach(encoder)
    assert encoder.training
    terms = objective(twins.batch(objective, 6), encoder)
    terms["equivariant"].backward()
    assert all(p.grad is not None and p.grad.any() for p in objective.projector.parameters())
    assert any(p.grad is not None and p.grad.any() for p in backbone.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 1}, "every is 1; it must be at least 2"),
        ({"equivariant_temperature": 0.0}, "equivariant_temperature is 0.0; it must be positive"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build("ser", **settings)
