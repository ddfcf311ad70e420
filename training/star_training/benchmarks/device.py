"""Our step on this device beside the backbone alone and lightly's step, as shares of a matrix product's rate.

Letters: B images, S view size.

All sides run in this process, in alternating rounds. The backbone alone is its forward and backward pass on two ready
views. A share is the multiply-adds of a side's step, with the few of our blur, over its seconds and over the
rate of a large matrix product in the same precision. lightly's step is measured if it is installed.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import statistics
import tempfile
from pathlib import Path
from typing import Any

from .peers.sizes import SIZES, VIEWS, Size, register_backbones, write_images


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the benchmark's arguments."""
    add = parser.add_argument
    add("--size", nargs="+", choices=list(SIZES), default=list(SIZES), help="sizes to measure (default: all)")
    add("--batch", type=int, nargs="+", help="images per step for each size (default: as in bench peers)")
    add("--rounds", type=int, default=5, help="rounds of all sides (default: %(default)s)")
    add("--steps", type=int, default=10, help="steps of each per round (default: %(default)s)")
    add("--precision", choices=("no", "bf16"), default="bf16", help="of all sides (default: %(default)s)")
    add("--workers", type=int, default=8, help="processes of each that load images (default: %(default)s)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the measurements. Raises ValueError for counts that are too small or don't match."""
    from .pretrain.machine import machine

    batches = arguments.batch or [SIZES[name].batch for name in arguments.size]
    if len(batches) != len(arguments.size):
        raise ValueError(f"--batch has {len(batches)} numbers for {len(arguments.size)} sizes; pass one for each size")
    if min(*batches, arguments.rounds + 1, arguments.steps + 1) < 2 or arguments.workers < 0:
        raise ValueError("--batch must be at least 2, --rounds and --steps at least 1, --workers at least 0")
    found: dict[str, Any] = {"machine": machine(), "precision": arguments.precision, "sizes": {}}
    for name, batch in zip(arguments.size, batches, strict=True):
        found["sizes"][name] = result = _measured(dataclasses.replace(SIZES[name], batch=batch), arguments)
        print(f"{name}, batch {batch}: {result['multiply-adds per second'] / 1e12:.2f} tera multiply-adds/s at most")
        for side, share in result["share of the peak"].items():
            print(f"  {side:14} {result['images per second'][side]:9.1f} images/s, {share:.3f} of it", flush=True)
    return found


def _measured(size: Size, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the seconds by round, rates and shares of a size."""
    import torch

    from .peers.ours import StarZoo
    from .pretrain.roofline import multiply_adds, product_rate
    from .pretrain.rounds import ratio, take_turns

    register_backbones()
    with tempfile.TemporaryDirectory(prefix="star-zoo-bench-") as folder, contextlib.ExitStack() as stack:
        images = Path(folder) / "images"
        write_images(size, images, None)
        ours = stack.enter_context(StarZoo(size, images, Path(folder) / "run", arguments.precision, arguments.workers))
        sides: list[Any] = [ours, _backbone_alone(size, arguments.precision)]
        if importlib.util.find_spec("lightly"):
            from .peers.with_lightly import Lightly

            sides.append(Lightly(size, images, arguments.precision, arguments.workers, channels_last=True))
        counted = {side.name: multiply_adds(side.step) for side in sides}
        seconds = take_turns(sides, arguments.rounds, arguments.steps)
        peak = product_rate(torch.bfloat16 if arguments.precision == "bf16" else torch.float32, ours.device)
    median = {side.name: statistics.median(each[side.name] for each in seconds) / arguments.steps for side in sides}
    return {
        **{name: getattr(size, name) for name in ("backbone", "pixels", "batch")},
        "seconds": seconds,
        "images per second": {side: size.batch / passed for side, passed in median.items()},
        "multiply-adds of a step": counted,
        "multiply-adds per second": peak,
        "share of the peak": {side: counted[side] / passed / peak for side, passed in median.items()},
        "ours over": {side.name: ratio(seconds, side.name, ours.name) for side in sides[1:]},
    }


def _backbone_alone(size: Size, precision: str) -> Any:
    import timm

    from .peers.side import training_device
    from .pretrain.backbone_alone import BackboneAlone

    backbone: Any = timm.create_model(size.backbone, num_classes=0).to(training_device())
    return BackboneAlone(backbone, 0, size.batch, size.pixels, precision, views=VIEWS)
