"""Gradients of convolution weights on small maps, against torch's own in double precision."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from star_training.numerics import small_maps
from star_training.numerics.allocator import filled_memory

Pair = tuple[int, int]
two = st.tuples


def used(layer: nn.Conv2d, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a backward pass through a layer computes the gradient of its weight as a product."""
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(small_maps, "weight_gradient", lambda *a: calls.append(a) or torch.zeros_like(layer.weight))
        layer(x).float().sum().backward()
    return bool(calls)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    images=two(st.integers(1, 5), st.integers(1, 4)),
    size=two(st.integers(1, 6), st.integers(1, 6)),
    kernel=two(st.integers(1, 5), st.integers(1, 5)),
    stride=two(st.integers(1, 3), st.integers(1, 3)),
    padding=two(st.integers(0, 3), st.integers(0, 3)),
    channels_last=st.booleans(),
)
def test_the_gradient_of_the_weight_is_torchs(
    images: Pair, size: Pair, kernel: Pair, stride: Pair, padding: Pair, channels_last: bool
):
    if any(n + 2 * pad < taps for n, pad, taps in zip(size, padding, kernel, strict=True)):
        return
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(*images, *size, dtype=torch.float64).contiguous(memory_format=layout)
    weight = torch.randn(3, images[1], *kernel, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    output = F.conv2d(x, weight, None, stride, padding)
    gradient = torch.randn_like(output).contiguous(memory_format=layout)
    (expected,) = torch.autograd.grad(output, weight, gradient)
    found = small_maps.weight_gradient(x, gradient, weight.detach(), stride, padding)
    assert found.stride() == weight.stride()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("size", "stride", "reached"), [(1, 1, (1, 1)), (2, 2, (2, 2)), (2, 1, (3, 3)), (3, 1, (3, 3)), (5, 2, (3, 3))]
)
def test_output_and_gradients_are_those_of_the_plain_layer(
    bias: bool, size: int, stride: int, reached: Pair, monkeypatch: pytest.MonkeyPatch
):
    plain = nn.Conv2d(8, 16, 3, stride, 1, bias=bias).to(memory_format=torch.channels_last)
    layer = copy.deepcopy(plain)
    small_maps.use(layer)
    x = torch.randn(6, 8, size, size).contiguous(memory_format=torch.channels_last)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [net(each) for net, each in zip((plain, layer), inputs, strict=True)]
    assert torch.equal(*outputs)
    for output in outputs:
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    assert torch.equal(*(each.grad for each in inputs))
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)
    if bias:
        torch.testing.assert_close(layer.bias.grad, plain.bias.grad)
    assert int((layer.weight.grad != 0).any(0).any(0).sum()) == reached[0] * reached[1]
    assert used(layer, x, monkeypatch)


def test_what_is_not_on_a_small_map_or_plain_is_torchs(monkeypatch: pytest.MonkeyPatch):
    small, large = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 4, 4)
    layer = nn.Conv2d(4, 4, 3, padding=1)
    small_maps.use(layer)
    assert used(layer, small, monkeypatch) and not used(layer, large, monkeypatch)
    with torch.autocast("cpu", torch.bfloat16):
        assert not used(layer, small, monkeypatch)
    grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
    small_maps.use(grouped)
    assert not used(grouped, small, monkeypatch)
    others = (
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 4, 3, padding="same"),
    )
    for other in others:
        small_maps.use(other)
        assert type(other) is nn.Conv2d
    layer.zero_grad()
    layer.weight.requires_grad_(False)
    x = small.clone().requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is None is not layer.bias.grad


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("groups", [1, 16])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [((1, 1), 3, 2, 1), ((4, 1), 3, 2, 1), ((1, 4), 3, 2, 1), ((1, 1), 2, 2, 1), ((2, 2), 5, 3, 2), ((5, 3), 7, 4, 3),
     ((1, 1), 3, (1, 2), (1, 2)), ((3, 3), 3, 2, 1)],
)  # fmt: skip
def test_bfloat16_is_right_on_maps_narrower_than_the_stride(
    size: Pair, kernel: int, stride: int | Pair, padding: int | Pair, groups: int, layout: torch.memory_format
):
    layer = nn.Conv2d(16, 32, kernel, stride, padding, groups=groups).to(memory_format=layout)
    exact = copy.deepcopy(layer).double()
    small_maps.use(layer)
    x = torch.randn(8, 16, *size).contiguous(memory_format=layout)
    inputs = [x.clone().requires_grad_(), x.double().requires_grad_()]
    with filled_memory(), torch.autocast("cpu", torch.bfloat16):
        found = layer(inputs[0])
    expected = exact(inputs[1])
    gradient = torch.randn_like(expected)
    with filled_memory():
        found.backward(gradient.to(found.dtype))
    expected.backward(gradient)
    assert found.dtype == torch.bfloat16 and layer.weight.grad.is_contiguous(memory_format=layout)
    pairs = [(found, expected), (inputs[0].grad, inputs[1].grad)]
    for a, b in [*pairs, *((p.grad, q.grad) for p, q in zip(layer.parameters(), exact.parameters(), strict=True))]:
        assert (a.detach() - b.detach()).norm() < 0.02 * b.detach().norm()


def test_gradients_can_be_differentiated():
    """As `simclr_gr` does."""
    layer = nn.Conv2d(2, 3, 3, 2, 1).double()
    small_maps.use(layer)
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x) and torch.autograd.gradgradcheck(layer, x)
    apply = small_maps._Convolution.apply
    inputs = x, layer.weight, layer.bias
    assert torch.autograd.gradgradcheck(lambda *tensors: apply(*tensors, (2, 2), (1, 1)), inputs)


def test_a_layer_keeps_its_parameters_and_its_name_and_can_be_copied():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    names, shown, weight = list(net.state_dict()), repr(net), net[0].weight
    small_maps.use(net)
    twin = copy.deepcopy(net)
    assert list(net.state_dict()) == names and repr(net) == shown and net[0].weight is weight
    twin(torch.ones(1, 3, 3, 3)).sum().backward()
    assert net[0].weight.grad is None and twin[0].weight.grad is not None
