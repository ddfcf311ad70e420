"""Gradients of convolution weights on small feature maps, where torch's own are slow or wrong.

On the CPU that we measured, an AMD EPYC with AVX2, torch's kernel for the gradient of a convolution's weight is slow
where maps have a few pixels, as in the last stages of a network on small images. The same sums are one product of the
output's gradient with the unfolded input. In a depthwise convolution, they are sums over products of an output's and an
input's pixel, a batch of matrix products. Values of the forward pass, and gradients of its input, are those of torch to
the last bit.

In bfloat16, on CPUs with AVX512, torch 2.14.1 leaves the gradient of some taps uninitialised if a map is narrower than
the stride, e.g. where a 3x3 convolution with stride 2 meets a map of 1x1. There, the convolution uses the taps that
reach the map alone, for which torch's gradient is correct.

Letters: B images, C and O channels, H x W pixels, K x L taps of a kernel, of which k x m reach the map; P and Q are the
numbers of pixels of an output and an input map.
"""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Pixels of the largest maps. On larger ones, the products aren't clearly faster.
_PIXELS, _DEPTHWISE_INPUT, _DEPTHWISE_OUTPUT = 9, 64, 16
_REDUCED = (torch.bfloat16, torch.float16)
_Pair = tuple[int, int]


def use(module: nn.Module) -> None:
    """Makes the convolutions in a module compute gradients on small maps as matrix products, in place.

    That holds for plain `nn.Conv2d` without dilation, and without groups or with one per channel, in full precision,
    outside of torch.compile. In reduced precision, all those without dilation compute correct gradients on maps
    narrower than their stride.
    """
    for layer in module.modules():
        if type(layer) is nn.Conv2d and _is_plain(layer):
            layer.__class__ = Conv2d  # not a new layer, because optimisers and hooks hold its weights


def _is_plain(layer: nn.Conv2d) -> bool:
    return layer.dilation == (1, 1) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


class Conv2d(nn.Conv2d):
    """torch's `Conv2d` with another way to compute the gradient of its weight.

    The name is the same, because hashes of models contain the names of their layers' classes.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(x)
        if torch.is_autocast_enabled(x.device.type) or x.dtype in _REDUCED:
            return self._reached(x) if x.shape[-1] < self.stride[1] else super().forward(x)
        if torch.compiler.is_compiling() or not self._is_small(x):
            return super().forward(x)
        found: Tensor = _Convolution.apply(x, self.weight, self.bias, self.stride, self.padding, self.groups)
        return found

    def _is_small(self, x: Tensor) -> bool:
        """Returns whether a product is the faster way to the gradient of the weight for an input."""
        if self.groups == 1:
            return self._pixels(x) <= _PIXELS
        depthwise = self.groups == self.in_channels == self.out_channels
        return depthwise and self._pixels(x) <= _DEPTHWISE_OUTPUT and math.prod(x.shape[-2:]) <= _DEPTHWISE_INPUT

    def _reached(self, x: Tensor) -> Tensor:
        """Returns the output, computed with the columns of taps that reach the map alone."""
        (rows, padding), taps, step = cast(_Pair, self.padding), self.kernel_size[1], self.stride[1]
        outputs = (x.shape[-1] + 2 * padding - taps) // step + 1
        left, m, *pad = _reach(x.shape[-1], outputs, taps, step, padding)
        weight = self.weight[..., left : left + m]
        return F.conv2d(F.pad(x, pad), weight, self.bias, self.stride, (rows, 0), groups=self.groups)

    def _pixels(self, x: Tensor) -> int:
        """Returns the number of pixels of the output map."""
        padding = cast(_Pair, self.padding)
        sides = zip(x.shape[-2:], self.kernel_size, self.stride, padding, strict=True)
        height, width = ((n + 2 * pad - taps) // step + 1 for n, taps, step, pad in sides)
        return height * width


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: _Pair, padding: _Pair, groups: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.groups = stride, padding, groups
        return F.conv2d(x, weight, bias, stride, padding, groups=groups)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        settings = ([0], ctx.stride, ctx.padding, (1, 1), False, (0, 0), ctx.groups)  # without dilation, transposition
        of = weight_gradient if ctx.groups == 1 else depthwise_gradient
        found = torch.ops.aten.convolution_backward(gradient, x, weight, *settings, (of_x, False, False))
        return (
            found[0],
            of(x, gradient, weight, ctx.stride, ctx.padding) if of_weight else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
            None,
            None,
            None,
        )


def weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor, stride: _Pair, padding: _Pair) -> Tensor:
    """Returns the gradient (O, C, K, L) of a convolution's weight, from its input and the gradient of its output.

    `x` is (B, C, H, W), `gradient` has O channels. Taps that meet padding alone get zeros, and no product is computed
    for them. The strides are the weight's, because those of gradients in buckets of several processes are.
    """
    shape = weight.shape
    top, k, *pad_rows = _reach(x.shape[2], gradient.shape[2], shape[2], stride[0], padding[0])
    left, m, *pad_columns = _reach(x.shape[3], gradient.shape[3], shape[3], stride[1], padding[1])
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, *pad_columns, *pad_rows))
    windows = padded.unfold(1, k, stride[0]).unfold(2, m, stride[1])  # (B, rows, columns, C, k, m)
    unfolded = windows.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)
    found = gradient.permute(0, 2, 3, 1).flatten(0, 2).t() @ unfolded
    reached = found.view(shape[0], k, m, shape[1]).permute(0, 3, 1, 2)
    if (k, m) == tuple(shape[2:]):
        return reached if reached.stride() == weight.stride() else torch.empty_like(weight).copy_(reached)
    whole = torch.zeros_like(weight)
    whole[:, :, top : top + k, left : left + m] = reached
    return whole


def depthwise_gradient(x: Tensor, gradient: Tensor, weight: Tensor, stride: _Pair, padding: _Pair) -> Tensor:
    """Returns the gradient (C, 1, K, L) of a depthwise convolution's weight, as `weight_gradient`.

    `x` is (B, C, H, W), `gradient` has C channels too. The products of all P x Q pairs of pixels, summed over the
    images, are one matrix product per channel; each is then added to the tap that links its pixels.
    """
    outputs = gradient.flatten(2).permute(1, 2, 0)  # (C, P, B)
    pairs = torch.bmm(outputs, x.flatten(2).permute(1, 0, 2)).flatten(1)  # (C, P x Q)
    shape = weight.shape
    rows = _taps(x.shape[2], gradient.shape[2], shape[2], stride[0], padding[0]).to(x.device)
    columns = _taps(x.shape[3], gradient.shape[3], shape[3], stride[1], padding[1]).to(x.device)
    taps = rows[:, None, :, None] * shape[3] + columns[None, :, None, :]
    linked = ((rows >= 0)[:, None, :, None] & (columns >= 0)[None, :, None, :]).flatten()
    found = torch.zeros_like(pairs[:, :1]).expand(-1, shape[2] * shape[3])
    found = found.index_add(1, taps.flatten()[linked], pairs[:, linked]).view(shape)
    return found if found.stride() == weight.stride() else torch.empty_like(weight).copy_(found)


def _taps(pixels: int, outputs: int, taps: int, stride: int, padding: int) -> Tensor:
    """Returns the tap that links each output pixel (row) with each input pixel (column), -1 for none."""
    tap = torch.arange(pixels) + padding - stride * torch.arange(outputs)[:, None]
    return tap.where((tap >= 0) & (tap < taps), -1)


def _reach(pixels: int, outputs: int, taps: int, stride: int, padding: int) -> tuple[int, int, int, int]:
    """Returns the first tap that meets pixels, the number of such taps, and the padding that these need on both sides.

    Padding is negative where pixels at the end meet no tap.
    """
    first, end = max(0, padding - (outputs - 1) * stride), min(taps, padding + pixels)
    before = padding - first
    return first, end - first, before, (outputs - 1) * stride + end - first - pixels - before
