"""The auto-encoder with an invariant code: its symmetry, its rotations, and that it learns.

Letters: B images, S size, D features, E code width, G elements of the group.
"""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.testing import assert_close

import twins
from star_zoo import Encoder, Objective, Policy, objectives
from star_zoo.augmentations import Crop
from star_zoo.groups import C4, D4, Group
from star_zoo.objectives.giae import decoder, direction, rotate
from star_zoo.symmetry.choice import straight_through
from twins import NUM_FEATURES, Turning, build, randn

GROUPS = pytest.mark.parametrize("group", [C4, D4], ids=lambda group: group.name)


def made(group: Group = C4, **settings) -> tuple[Objective, Encoder]:
    """An objective and its encoder, in evaluation."""
    objective = build("giae", **{"code_dim": 6, "hidden": 8} | settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = Encoder(objective.policy, Turning(group))
    objective.attach(encoder)
    return objective.eval(), encoder.eval()


# The symmetry


@GROUPS
@torch.no_grad()
def test_code_and_canonical_image_stay_while_pose_and_reconstruction_turn(group: Group):
    objective, encoder = made(group)
    images = randn(4, 3, 16, 16)
    z = encoder.backbone.regular_features(images)
    code, found = objective.embed(encoder.backbone(images))["z_inv"], objective.reconstruct(z)
    assert_close(found.canonical, objective.decoder(code), rtol=0, atol=1e-6)
    error = (found.images - images).square().mean((1, 2, 3))
    assert len(found.pose.argmax(1).unique()) > 1
    assert not torch.equal(found.canonical, found.images)
    for g in range(group.order):
        x = group.act_on_images(images, g)
        again = objective.reconstruct(encoder.backbone.regular_features(x))
        assert (objective.embed(encoder.backbone(x))["z_inv"] - code).abs().max() < 1e-5
        assert (again.canonical - found.canonical).abs().max() < 1e-5
        assert torch.equal(again.pose, group.act_on_features(found.pose, g))
        chosen = zip(found.pose.argmax(1).tolist(), again.pose.argmax(1).tolist(), strict=True)
        assert all(after == group.product(g, before) for before, after in chosen)
        assert (again.images - group.act_on_images(found.images, g)).abs().max() < 1e-5
        assert ((again.images - x).square().mean((1, 2, 3)) - error).abs().max() < 1e-5


@torch.no_grad()
def test_an_angle_follows_quarter_turns():
    objective, encoder = made(pose="so2")
    images = randn(4, 3, 16, 16)
    found = objective.reconstruct(encoder.backbone.regular_features(images))
    assert_close(found.pose.norm(dim=1), torch.ones(4))
    for k in range(4):
        again = objective.reconstruct(encoder.backbone.regular_features(images.rot90(k, (-2, -1))))
        cos, sin = math.cos(k * math.pi / 2), math.sin(k * math.pi / 2)
        assert_close(again.pose, found.pose @ torch.tensor([[cos, sin], [-sin, cos]]), rtol=0, atol=1e-5)
        assert (again.canonical - found.canonical).abs().max() < 1e-5


def test_a_reconstruction_is_the_canonical_image_turned_by_the_chosen_element():
    objective, encoder = made()
    found = objective.reconstruct(encoder.backbone.regular_features(randn(6, 3, 16, 16)))
    for image, canonical, pose in zip(*found, strict=True):
        assert sorted(pose.tolist()) == [0, 0, 0, 1]
        assert torch.equal(image, canonical.rot90(int(pose.argmax()), (-2, -1)))


# The pose


def test_a_choice_is_hard_and_has_the_gradient_of_the_softmax():
    scores, weight = randn(5, 4).requires_grad_(), randn(5, 4, seed=1)
    hard = straight_through(scores)
    assert torch.equal(hard.detach(), F.one_hot(scores.argmax(1), 4).float())
    (found,) = torch.autograd.grad((hard * weight).sum(), scores)
    (expected,) = torch.autograd.grad((scores.softmax(1) * weight).sum(), scores)
    assert_close(found, expected)


def test_a_direction_is_the_sum_of_powers_of_i():
    scores = randn(5, 4)
    for row, (cos, sin) in zip(scores.tolist(), direction(scores).tolist(), strict=True):
        v = sum(x * 1j**k for k, x in enumerate(row))
        assert complex(cos, sin) == pytest.approx(v / abs(v), abs=1e-6)


@pytest.mark.parametrize("size", [8, 9])
def test_rotation_by_quarter_turns_is_exact_and_counter_clockwise(size: int):
    images = randn(4, 3, size, size)
    pose = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    for k in range(4):
        assert_close(rotate(images[k : k + 1], pose[k : k + 1])[0], images[k].rot90(k, (-2, -1)), rtol=0, atol=1e-5)


def test_rotation_moves_a_spot_by_its_angle():
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 33)] * 2, indexing="ij")
    spot = torch.exp(-((x - 0.5) ** 2 + y**2) / 0.02).expand(1, 3, -1, -1)  # to the right of the centre
    angle = 0.7
    turned = rotate(spot, torch.tensor([[math.cos(angle), math.sin(angle)]]))[0, 0]
    centre = [float((turned * c).sum() / turned.sum()) for c in (x, -y)]  # upwards
    assert centre == pytest.approx([0.5 * math.cos(angle), 0.5 * math.sin(angle)], abs=0.01)


# The objective


@pytest.mark.parametrize("pose", ["group", "so2"])
def test_the_term_is_the_mean_squared_error_and_trains_everything(pose: str):
    objective, encoder = made(pose=pose)
    objective.train(), encoder.train()
    batch = twins.batch(objective, 5)
    images = encoder.augment(batch, 0)
    found = objective.reconstruct(encoder.backbone.regular_features(images))
    terms = objective(batch, encoder)
    assert_close(
        terms, {"reconstruction": sum((a - b).square().mean() for a, b in zip(found[0], images, strict=True)) / 5}
    )
    terms["reconstruction"].backward()
    for name, weight in itertools.chain(objective.named_parameters(), encoder.named_parameters()):
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.any(), name


@pytest.mark.parametrize("size", [3, 4, 16, 28, 33])
def test_a_decoder_makes_images_of_any_size(size: int):
    network = decoder(6, 4, 3, size)
    sides = [layer.size for layer in network if isinstance(layer, nn.Upsample)]
    assert network(randn(2, 6)).shape == (2, 3, size, size)
    assert all(b in (2 * a, 2 * a - 1) for a, b in itertools.pairwise(sides))


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="pose 'so3' not found; did you mean 'so2'"):
        build("giae", pose="so3")
    with pytest.raises(ValueError, match="the backbone's group is d4; an angle describes no flip: use pose=group"):
        made(D4, pose="so2")


def trained_error(group: Group, images: Tensor) -> float:
    """The error after some training, of an auto-encoder with a pose for C4, without one for the trivial group."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = Policy((Crop(8),), (0.5,) * 3, (1.0,) * 3)
        objective = objectives.build("giae", NUM_FEATURES, policy, code_dim=6, hidden=16)
        backbone = Turning(group)

    def reconstruct(x: Tensor) -> Tensor:
        if group == C4:
            return objective.reconstruct(backbone.regular_features(x)).images
        return objective.decoder(objective.code(backbone(x)))

    optimizer = torch.optim.Adam([*objective.parameters(), *backbone.parameters()], 0.01)
    for _ in range(120):
        loss = F.mse_loss(reconstruct(images), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_turned_digits_are_reconstructed_better_with_a_pose_than_without():
    """A dozen handwritten digits, each in its four quarter turns, through a code of six numbers."""
    pixels = torch.from_numpy(load_digits().images[:12]).float()[:, None] / 16 - 0.5
    images = C4.orbit(pixels.expand(-1, 3, -1, -1)).flatten(0, 1)
    with_pose, without = (trained_error(group, images) for group in (C4, Group("trivial", 1)))
    assert with_pose < 0.6 * without  # 0.31 to 0.40 with three seeds


def test_poses_are_exact_under_mixed_precision():
    objective, _ = made()
    z = randn(256, NUM_FEATURES, 4, seed=3)
    with torch.autocast("cpu", torch.bfloat16):
        found = objective.reconstruct(z).pose
    assert torch.equal(found.argmax(1), objective.reconstruct(z).pose.argmax(1))
