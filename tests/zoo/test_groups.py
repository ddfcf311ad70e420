"""The groups C4 and D4: their laws, convolutions against filters that are turned by hand, and equivariance."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from star_zoo import groups
from star_zoo.groups import C4, D4, AveragePool, FieldNorm, Group, GroupConv, LiftConv
from twins import randn, repeatable

both = pytest.mark.parametrize("group", [C4, D4], ids=lambda group: group.name)
sides = st.integers(1, 9)
SIZES = (1, 1), (2, 3), (4, 4), (5, 5), (7, 6), (8, 9)
_TURN, _FLIP, _SAME = ((0, -1), (1, 0)), ((-1, 0), (0, 1)), ((1, 0), (0, 1))  # of columns x and upward rows y


def times(a: tuple, b: tuple) -> tuple:
    """The product of two matrices of 2 x 2."""
    return tuple(tuple(sum(a[i][k] * b[k][j] for k in (0, 1)) for j in (0, 1)) for i in (0, 1))


def matrices(group: Group) -> list[tuple]:
    """The elements as matrices: for each number of flips, 0 to 3 quarter turns counter-clockwise after them."""
    found = []
    for first in (_SAME, _FLIP)[: group.order // 4]:
        found.append(first)
        for _ in range(3):
            found.append(times(_TURN, found[-1]))
    return found


def moved(x: Tensor, matrix: tuple) -> Tensor:
    """Square images (..., H, H), with each pixel carried to its place by a matrix, one pixel at a time."""
    size = x.shape[-1]
    result = torch.empty_like(x)
    for row, column in itertools.product(range(size), repeat=2):
        place = 2 * column - size + 1, size - 1 - 2 * row  # from the centre, in half pixels
        right, up = (sum(entry * p for entry, p in zip(line, place, strict=True)) for line in matrix)
        result[..., (size - 1 - up) // 2, (right + size - 1) // 2] = x[..., row, column]
    return result


def warmed(layer: nn.Module) -> nn.Module:
    """A layer in float64, with random numbers for its weights."""
    with torch.no_grad():
        for number, parameter in enumerate(layer.double().parameters()):
            parameter.copy_(randn(*parameter.shape, seed=number))
    return layer


# ----- the groups


@both
def test_products_and_inverses_are_those_of_matrices(group: Group):
    elements = matrices(group)
    assert len(set(elements)) == group.order
    for g, h in itertools.product(range(group.order), repeat=2):
        assert elements[group.product(g, h)] == times(elements[g], elements[h])
    for g in range(group.order):
        assert times(elements[group.inverse(g)], elements[g]) == _SAME


@both
def test_images_are_moved_pixel_by_pixel(group: Group):
    x = randn(2, 3, 5, 5)
    for g, matrix in enumerate(matrices(group)):
        assert group.act_on_images(x, g).equal(moved(x, matrix))
    assert group.orbit(x).equal(torch.stack([moved(x, matrix) for matrix in matrices(group)], 1))


@both
@given(height=sides, width=sides, g=st.integers(0, 7), h=st.integers(0, 7))
@repeatable
def test_the_actions_compose_as_the_elements_do(group: Group, height: int, width: int, g: int, h: int):
    g, h = g % group.order, h % group.order
    x = torch.arange(float(2 * group.order * height * width)).view(2, group.order, height, width)
    for act, y in (
        (group.act_on_images, x),
        (group.act_on_maps, x),
        (group.act_on_features, x.flatten(2).mT.contiguous()),
    ):
        assert act(act(y, h), g).equal(act(y, group.product(g, h)))
        assert act(y, 0).equal(y)


def test_quarter_turns_shift_features_cyclically():
    z = randn(2, 3, 4)
    for g in range(4):
        assert C4.act_on_features(z, g).equal(z.roll(g, -1))


@both
def test_maps_are_turned_and_moved(group: Group):
    x, elements = randn(2, 3, group.order, 5, 5), matrices(group)
    for g, h in itertools.product(range(group.order), repeat=2):
        found = group.act_on_maps(x, g)[:, :, elements.index(times(elements[g], elements[h]))]
        assert found.equal(moved(x[:, :, h], elements[g]))


def test_an_unknown_group_is_named():
    assert groups.find("c4") is C4 and groups.find("d4") is D4
    with pytest.raises(ValueError, match="group 'd5' not found; known: c4, d4"):
        groups.find("d5")


# ----- convolutions


@both
def test_a_lifting_convolution_turns_its_filters(group: Group):
    layer, x = LiftConv(group, 2, 3, 3), randn(2, 2, 6, 5)
    for g, matrix in enumerate(matrices(group)):
        expected = F.conv2d(x, moved(layer.weight, matrix), padding=1)
        torch.testing.assert_close(layer(x)[:, :, g], expected)


@both
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_a_group_convolution_turns_its_filters_and_moves_their_elements(group: Group, kernel_size: int):
    layer, x = GroupConv(group, 2, 3, kernel_size), randn(2, 2, group.order, 6, 5)
    weight = layer.weight.unflatten(1, (2, group.order))
    elements, found = matrices(group), layer(x)
    for g in range(group.order):
        expected = torch.zeros(2, 3, 6, 5)
        for h in range(group.order):  # the filter that meets map h is that of the element between g and h
            (between,) = (k for k in range(group.order) if times(elements[g], elements[k]) == elements[h])
            filters = moved(weight[:, :, between], elements[g])
            expected += F.conv2d(x[:, :, h], filters, padding=kernel_size // 2)
        torch.testing.assert_close(found[:, :, g], expected)


@both
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_gradients_of_convolutions(group: Group, kernel_size: int):
    lift, conv = warmed(LiftConv(group, 1, 2, kernel_size)), warmed(GroupConv(group, 1, 1, kernel_size))
    for layer, x in ((lift, randn(1, 1, 3, 2)), (conv, randn(1, 1, group.order, 2, 2))):

        def convolve(x: Tensor, weight: Tensor, layer: nn.Module = layer) -> Tensor:
            return torch.func.functional_call(layer, {"weight": weight}, x)

        inputs = x.double().requires_grad_(), layer.weight.detach().requires_grad_()
        assert torch.autograd.gradcheck(convolve, inputs)
        assert kernel_size > 1 or torch.autograd.gradgradcheck(convolve, inputs)


def test_weights_are_drawn_as_those_of_timms_resnets():
    """Kaiming's normal distribution by fan-out; every turned copy is an output."""
    torch.manual_seed(0)
    for layer in (LiftConv(C4, 16, 32), GroupConv(C4, 16, 32)):
        plain = nn.Conv2d(1, 32 * 4, 3)
        nn.init.kaiming_normal_(plain.weight, mode="fan_out", nonlinearity="relu")
        assert layer.weight.std().item() == pytest.approx(plain.weight.std().item(), rel=0.1)


@both
def test_an_even_kernel_is_refused(group: Group):
    for kind in (LiftConv, GroupConv):
        with pytest.raises(ValueError, match="kernel_size is 4; it must be odd"):
            kind(group, 1, 1, 4)


@pytest.mark.parametrize("layer", [LiftConv(D4, 3, 4), GroupConv(D4, 3, 4)], ids=["lift", "group"])
def test_memory_formats_and_autocast_change_no_more_than_rounding(layer: nn.Module):
    x = randn(2, 3, 6, 6) if isinstance(layer, LiftConv) else randn(2, 3, 8, 6, 6)
    expected = layer(x)
    last = layer.to(memory_format=torch.channels_last)
    turned = x.flatten(1, -3).contiguous(memory_format=torch.channels_last).view(x.shape)
    torch.testing.assert_close(last(turned), expected)
    with torch.autocast("cpu", torch.bfloat16):
        half = last(turned)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.05)


# ----- norm and pooling


def test_batch_norm_is_per_field():
    ours, theirs = warmed(FieldNorm(3)), warmed(nn.BatchNorm3d(3))
    x = (randn(4, 3, 8, 3, 2) * torch.arange(1, 4)[:, None, None, None]).double()
    for x_ours, x_theirs in ((x, x.clone()), (x + 1, x + 1)):
        a, b = x_ours.requires_grad_(), x_theirs.requires_grad_()
        for layer, y in ((ours, a), (theirs, b)):
            (layer(y) * randn(*x.shape, seed=1)).sum().backward()
        torch.testing.assert_close(ours(a), theirs(b))
        torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(dict(ours.norm.named_buffers()), dict(theirs.named_buffers()))
    torch.testing.assert_close(ours.norm.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@given(height=sides, width=sides)
@repeatable
def test_pooling_takes_the_mean_of_symmetric_windows(height: int, width: int):
    x = randn(2, 3, 4, height, width).double()

    def windows(side: int) -> list[range]:
        if side % 2 == 0:
            return [range(k, k + 2) for k in range(0, side, 2)]
        return [range(max(k - 1, 0), min(k + 2, side)) for k in range(0, side, 2)]

    expected = torch.stack(
        [torch.stack([x[..., r, :][..., c].mean((-2, -1)) for c in windows(width)], -1) for r in windows(height)], -2
    )
    torch.testing.assert_close(AveragePool()(x), expected)


# ----- equivariance


def layers(group: Group) -> dict[str, nn.Module]:
    return {
        "convolution": GroupConv(group, 2, 3, 3),
        "large kernel": GroupConv(group, 2, 2, 5),
        "shortcut": GroupConv(group, 2, 3, 1),
        "norm": FieldNorm(2),
        "pool": AveragePool(),
        "all": nn.Sequential(GroupConv(group, 2, 3), AveragePool(), FieldNorm(3), nn.ReLU(), AveragePool()),
    }


@both
@pytest.mark.parametrize("name", layers(C4))
def test_every_layer_commutes_with_every_element(group: Group, name: str):
    layer = warmed(layers(group)[name])  # in training mode, so that the norm uses the statistics of the batch
    for height, width in SIZES:
        x = randn(2, 2, group.order, height, width).double()
        expected = layer(x)
        for g in range(group.order):
            torch.testing.assert_close(layer(group.act_on_maps(x, g)), group.act_on_maps(expected, g))


@both
def test_lifting_commutes_with_every_element(group: Group):
    layer = warmed(LiftConv(group, 2, 3, 7))
    for height, width in SIZES:
        x = randn(2, 2, height, width).double()
        expected = layer(x)
        for g in range(group.order):
            torch.testing.assert_close(layer(group.act_on_images(x, g)), group.act_on_maps(expected, g))


@both
def test_the_error_is_that_of_the_worst_element_and_image(group: Group):
    def blind(images: Tensor) -> Tensor:
        """The same features whatever the angle: of image 0 equal for all elements, of image 1 a single 1."""
        return torch.stack([torch.ones(3, group.order), torch.eye(3, group.order)])

    expected = torch.eye(3, group.order)
    moves = [expected - group.act_on_features(expected, g) for g in range(group.order)]
    worst = max(float(move.norm() / expected.norm()) for move in moves)
    assert worst == pytest.approx(2**0.5)
    assert groups.equivariance_error(group, blind, randn(2, 3, 4, 4)) == pytest.approx(worst)


@both
def test_the_error_of_a_network_is_rounding_and_that_of_strides_is_not(group: Group):
    torch.manual_seed(0)
    lift, conv = LiftConv(group, 3, 4), GroupConv(group, 4, 5)

    def pooled(x: Tensor) -> Tensor:
        return conv(AveragePool()(lift(x))).relu().mean((-2, -1))

    def strided(x: Tensor) -> Tensor:
        y = F.conv2d(x, lift.filters(), stride=2, padding=1).unflatten(1, (4, group.order))
        return conv(y).relu().mean((-2, -1))

    for size in (32, 33):
        assert groups.equivariance_error(group, pooled, randn(2, 3, size, size)) < 1e-6
    assert groups.equivariance_error(group, strided, randn(2, 3, 33, 33)) < 1e-6
    assert groups.equivariance_error(group, strided, randn(2, 3, 32, 32)) > 1e-3
