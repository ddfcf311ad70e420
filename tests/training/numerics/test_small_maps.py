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
        for name in ("weight_gradient", "depthwise_gradient"):
            patch.setattr(small_maps, name, lambda *a: calls.append(a) or torch.zeros_like(layer.weight))
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
    depthwise=st.booleans(),
)
def test_the_gradient_of_the_weight_is_torchs(
    images: Pair, size: Pair, kernel: Pair, stride: Pair, padding: Pair, channels_last: bool, depthwise: bool
):
    if any(n + 2 * pad < taps for n, pad, taps in zip(size, padding, kernel, strict=True)):
        return
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(*images, *size, dtype=torch.float64).contiguous(memory_format=layout)
    shape = (images[1], 1, *kernel) if depthwise else (3, images[1], *kernel)
    weight = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    output = F.conv2d(x, weight, None, stride, padding, groups=images[1] if depthwise else 1)
    gradient = torch.randn_like(output).contiguous(memory_format=layout)
    (expected,) = torch.autograd.grad(output, weight, gradient)
    compute = small_maps.depthwise_gradient if depthwise else small_maps.weight_gradient
    found = compute(x, gradient, weight.detach(), stride, padding)
    assert found.stride() == weight.stride()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize(
    ("size", "stride", "reached"), [(1, 1, (1, 1)), (2, 2, (2, 2)), (2, 1, (3, 3)), (3, 1, (3, 3)), (5, 2, (3, 3))]
)
def test_output_and_gradients_are_those_of_the_plain_layer(
    bias: bool, groups: int, size: int, stride: int, reached: Pair, monkeypatch: pytest.MonkeyPatch
):
    outputs = 16 if groups == 1 else groups
    plain = nn.Conv2d(8, outputs, 3, stride, 1, bias=bias, groups=groups).to(memory_format=torch.channels_last)
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
    for grouped in (nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Conv2d(4, 8, 3, padding=1, groups=4)):
        small_maps.use(grouped)
        assert not used(grouped, small, monkeypatch)
    depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    small_maps.use(depthwise)
    assert used(depthwise, large, monkeypatch) and not used(depthwise, torch.randn(2, 4, 5, 5), monkeypatch)
    strided = nn.Conv2d(4, 4, 3, stride=3, padding=1, groups=4)
    small_maps.use(strided)
    assert used(strided, torch.randn(2, 4, 8, 8), monkeypatch)
    assert not used(strided, torch.randn(2, 4, 9, 9), monkeypatch)
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
    for groups, outputs in ((1, 3), (2, 2)):
        layer = nn.Conv2d(2, outputs, 3, 2, 1, groups=groups).double()
        small_maps.use(layer)
        x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(layer, x) and torch.autograd.gradgradcheck(layer, x)
        settings = (2, 2), (1, 1), groups
        inputs = x, layer.weight, layer.bias
        assert torch.autograd.gradgradcheck(lambda *t, s=settings: small_maps._Convolution.apply(*t, *s), inputs)


def test_a_layer_keeps_its_parameters_and_its_name_and_can_be_copied():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    names, shown, weight = list(net.state_dict()), repr(net), net[0].weight
    small_maps.use(net)
    twin = copy.deepcopy(net)
    assert list(net.state_dict()) == names and repr(net) == shown and net[0].weight is weight
    twin(torch.ones(1, 3, 3, 3)).sum().backward()
    assert net[0].weight.grad is None and twin[0].weight.grad is not None
