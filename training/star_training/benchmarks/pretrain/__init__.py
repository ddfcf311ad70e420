"""A step of pretraining: ours from data to optimiser, the released code's style, the backbone alone, and the roofline.

The three alternate: in each round each of them runs some steps, in a rotating order. A ratio is the median over the
rounds of the ratio within a round, because a machine's speed varies. A sample is one image with its three views. Ours
is a real run; `released style` is a twin that computes the same loss; `backbone alone` is the backbone on ready
tensors in three passes, and the heads' multiply-adds at the rate of one large matrix product. It bounds nothing,
because all views of ours may pass at once.

The roofline is a bound: all multiply-adds of our step at the highest rate of a large matrix product, measured before
and after our steps in each round with the same threads. They are those of backbone, heads and loss, forward and
backward, and of the blur, which has less than a thousandth of them. A convolution's products with zero padding count;
an algorithm that skips these, or Winograd's, could pass the bound.
"""

import argparse
from typing import Any

from star_catalog.files import user_path

from .sizes import SIZES


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the benchmark's arguments."""
    add = parser.add_argument
    steps = ", ".join(f"{size.steps} for {name}" for name, size in SIZES.items())
    add("--size", nargs="+", choices=list(SIZES), default=list(SIZES), help="sizes to measure (default: all)")
    add("--rounds", type=int, default=4, help="rounds of the three (default: %(default)s)")
    add("--steps", type=int, help=f"steps of each per round (default: {steps})")
    add(
        "--precision",
        choices=("no", "bf16"),
        default="no",
        help="of ours and of the backbone alone (default: no, i.e. float32)",
    )
    # a worker would prefetch images during the others' turns, and take processors from them
    add("--workers", type=int, default=0, help="processes that load images (default: %(default)s, the best on a CPU)")
    add("--picture", type=user_path, help="PNG to write: the time of each part of a step")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the comparison. Raises ValueError for counts that are too small."""
    for name, least in (("rounds", 1), ("steps", 1), ("workers", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} is {value}; it must be at least {least}")
    # imported here, because the parser of every benchmark imports this module
    from .compare import compare
    from .machine import machine

    precision, rounds, workers = arguments.precision, arguments.rounds, arguments.workers
    found: dict[str, Any] = {"machine": machine(), "precision": precision, "workers": workers, "sizes": {}}
    print(_line(found["machine"]), flush=True)
    for name in dict.fromkeys(arguments.size):
        size, steps = SIZES[name], arguments.steps or SIZES[name].steps
        what = f"{size.backbone} at {size.pixels} px, batch {size.batch}, {size.experts} experts"
        print(f"\n{name}: {what}; {rounds} rounds with {steps} steps of each", flush=True)
        found["sizes"][name] = compare(name, size, rounds, steps, precision, workers)
        _print(found["sizes"][name])
    if arguments.picture:
        from .picture import draw

        draw(arguments.picture, found)
    return found


def _line(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, on {machine['device']}"
    return f"{where}; {versions}; {machine['date']}"


def _print(result: dict[str, Any]) -> None:
    for variant, rate in result["samples per second"].items():
        print(f"  {variant:24} {rate:8.2f} samples/s")
    for name in ("share of the roofline", "times the backbone alone", "times the released style"):
        median, least, most = (result[name][key] for key in ("median", "least", "most"))
        print(f"  {name:24} {median:8.3f}   ({least:.3f} to {most:.3f} over the rounds)")
    work, rates = result["roofline"]["multiply-adds a sample"], result["roofline"]["multiply-adds per second"]
    print(
        f"  the roofline has {work / 1e9:.3f} giga multiply-adds a sample, at {min(rates) / 1e9:.1f} to "
        f"{max(rates) / 1e9:.1f} giga a second"
    )
    whole = sum(result["parts"].values())
    print(f"  parts of our step, {whole:.3f} s:")
    for part, seconds in result["parts"].items():
        print(f"    {part:24} {seconds:6.3f} s {seconds / whole:6.1%}")
    saving, step = result["checkpoint"], result["checkpoint"]["step"]
    slower = max(0.0, saving["stall"] + saving["step beside"] - step) / step
    print(
        f"  every {saving['every']} steps a checkpoint stops the loop for {saving['stall'] / step:.1%} of a step; with "
        f"its background writing it costs {slower:.1%} of a step"
    )
    kept = ", ".join(f"{size / 2**20:.1f} MiB in {variant}" for variant, size in result["saved for backward"].items())
    print(f"  saved by heads and loss for the backward pass: {kept}")
    print(f"  peak memory of the process so far: {result['peak resident'] / 2**30:.2f} GiB", flush=True)
