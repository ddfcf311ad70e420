"""Convolutions in channels_last compared with contiguous layout: a program of its own, because a fault may crash it.

It reads {"threads": int, "dtype": str, "convolutions": [...]} from standard input, each convolution as the arguments
of torch.convolution with shapes for tensors. It prints the index of each convolution before it tries it, and exits
with 3 where the last one gave other numbers. It imports torch alone, so that it starts fast.
Letters: B images, C channels, K output channels, H x W pixels.
"""

import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

WRONG = 3  # exit code; an exception's is 1
HANGS = -14  # the code of a process that its alarm ended
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}  # relative, of orders of summation
_ELEMENTS, _PRODUCTS = 2**21, 2**24  # of enlarged maps: a few milliseconds each

Convolution = list[Any]  # input (B, C, H, W), weight, bias or None, stride, padding, dilation, transposed, ..., groups


def larger(convolution: Convolution) -> Convolution:
    """The same convolution on a map that is as large as a trial affords, odd where the given one is odd.

    What runs over the end of a buffer runs further on a larger map, and crashes reliably.
    """
    (images, channels, height, width), weight, *rest = convolution
    while True:
        taller, wider = 2 * height - height % 2, 2 * width - width % 2
        elements = images * taller * wider * max(channels, weight[0])
        if elements > _ELEMENTS or elements * math.prod(weight[1:]) > _PRODUCTS or taller == height or wider == width:
            return [[images, channels, height, width], weight, *rest]
        height, width = taller, wider


def agree(convolution: Convolution, dtype: torch.dtype) -> bool:
    """Whether output and gradients are the same in both layouts; ends the process where channels_last hangs."""
    shapes, settings = convolution[:3], convolution[3:]
    generator = torch.Generator().manual_seed(0)
    given = [None if shape is None else torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    start = time.perf_counter()
    expected = list(_results(given, settings, torch.contiguous_format))
    limit = 20 + int(20 * (time.perf_counter() - start))
    if hasattr(signal, "alarm"):
        signal.alarm(limit)
    found = list(_results(given, settings, torch.channels_last))
    if hasattr(signal, "alarm"):
        signal.alarm(0)
    return all(
        float((a.float() - b.float()).norm()) <= _TOLERANCE[dtype] * float(b.float().norm())
        for a, b in zip(found, expected, strict=True)
    )


def _results(given: list[Any], settings: list[Any], layout: torch.memory_format) -> Iterator[Tensor]:
    """The output, then the gradients of input, weight and bias for a random gradient of the output."""
    tensors: list[Any] = [t if t is None or t.ndim != 4 else t.clone(memory_format=layout) for t in given]
    leaves = [t.requires_grad_() for t in tensors if t is not None]
    output = torch.convolution(*tensors, *settings)
    yield output.detach()
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)
    yield from torch.autograd.grad(output, leaves, gradient.contiguous(memory_format=layout))


def main() -> int:
    asked = json.load(sys.stdin)
    torch.set_num_threads(asked["threads"])
    dtype = getattr(torch, asked["dtype"])
    for index, convolution in enumerate(asked["convolutions"]):
        print(index, flush=True)
        for tried in (convolution, larger(convolution), larger(convolution)):
            if not agree(tried, dtype):
                return WRONG
    return 0


if __name__ == "__main__":
    sys.exit(main())
