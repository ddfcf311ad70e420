"""Compares convolutions in channels_last with contiguous layout, in a separate program, because a fault may crash it.

It reads {"threads": int, "dtype": str, "convolutions": [...]} from standard input. Each convolution is a list of the
arguments of torch.convolution, with shapes in place of tensors. It prints the index of each convolution before it
runs it, and exits with code 3 if the last one computed different numbers. It only imports torch, to start fast.
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

WRONG = 3  # exit code; that of an exception is 1
HANGS = -14  # return code of a process that SIGALRM ended
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}  # relative; the order of summation may differ
_ELEMENTS, _PRODUCTS = 2**21, 2**24  # limits of enlarged maps, which then take a few milliseconds each

Convolution = list[Any]  # input (B, C, H, W), weight, bias or None, stride, padding, dilation, transposed, ..., groups


def larger(convolution: Convolution) -> Convolution:
    """Returns the same convolution on a map enlarged up to the limits of a trial; odd sizes stay odd.

    A buffer overrun is longer on a larger map, and crashes reliably.
    """
    (images, channels, height, width), weight, *rest = convolution
    while True:
        taller, wider = 2 * height - height % 2, 2 * width - width % 2
        elements = images * taller * wider * max(channels, weight[0])
        if elements > _ELEMENTS or elements * math.prod(weight[1:]) > _PRODUCTS or taller == height or wider == width:
            return [[images, channels, height, width], weight, *rest]
        height, width = taller, wider


def agree(convolution: Convolution, dtype: torch.dtype) -> bool:
    """Whether output and gradients agree in both layouts; SIGALRM ends the process if channels_last hangs."""
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
    """Yields the output, then the gradients of input, weight and bias for a random gradient of the output."""
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
