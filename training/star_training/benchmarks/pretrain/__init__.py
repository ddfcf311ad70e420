"""A step of pretraining: ours from data to optimiser, the released code's style, and the machine's limit.

The three take turns: in a round each does some steps, in an order that rotates, and a ratio is the median over the
rounds of the ratio within a round, since a machine is now faster and now slower. A sample is one image with its three
views. Ours is a real run; `released_style` is a twin of it that computes the same loss; `limit` is what no step can
beat: the backbone on ready tensors, and the heads' multiply-adds at the rate of one large matrix product.
"""

import argparse
from pathlib import Path
from typing import Any

from .sizes import SIZES


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the benchmark's arguments."""
    add = parser.add_argument
    steps = ", ".join(f"{size.steps} for {name}" for name, size in SIZES.items())
    add("--size", nargs="+", choices=list(SIZES), default=list(SIZES), help="what is measured (all)")
    add("--rounds", type=int, default=4, help="turns of the three (%(default)s)")
    add("--steps", type=int, help=f"steps of each in a round ({steps})")
    add("--precision", choices=("no", "bf16"), default="no", help="of ours and the limit (no, which is float32)")
    # a worker would load images ahead in the others' turns, on the processors that those compute with
    add(
        "--workers", type=int, default=0, help="processes that load images (%(default)s, best where processors compute)"
    )
    add("--picture", type=Path, help="a PNG to write: where a step's time goes")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prints and gives the comparison. Raises ValueError for counts that measure nothing."""
    for name, least in (("rounds", 1), ("steps", 1), ("workers", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} is {value}; it must be at least {least}")
    # only now, for every command declares this one
    from .compare import compare
    from .machine import machine

    precision, rounds, workers = arguments.precision, arguments.rounds, arguments.workers
    found: dict[str, Any] = {"machine": machine(), "precision": precision, "workers": workers, "sizes": {}}
    print(_line(found["machine"]), flush=True)
    for name in dict.fromkeys(arguments.size):
        size, steps = SIZES[name], arguments.steps or SIZES[name].steps
        what = f"{size.backbone} at {size.pixels} px, batch {size.batch}, {size.experts} experts"
        print(f"\n{name}: {what}; rounds {rounds}, steps of each in a round {steps}", flush=True)
        found["sizes"][name] = compare(name, size, rounds, steps, precision, workers)
        _tell(found["sizes"][name])
    if arguments.picture:
        from .picture import draw

        draw(arguments.picture, found)
    return found


def _line(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, on {machine['device']}"
    return f"{where}; {versions}; {machine['date']}"


def _tell(told: dict[str, Any]) -> None:
    for variant, rate in told["samples per second"].items():
        print(f"  {variant:24} {rate:8.2f} samples/s")
    for name in ("share of the limit", "times the released style"):
        median, least, most = (told[name][key] for key in ("median", "least", "most"))
        print(f"  {name:24} {median:8.3f}   ({least:.3f} to {most:.3f} over the rounds)")
    whole = sum(told["parts"].values())
    print(f"  where a step of ours goes, {whole:.3f} s:")
    for part, seconds in told["parts"].items():
        print(f"    {part:24} {seconds:6.3f} s {seconds / whole:6.1%}")
    saving, step = told["checkpoint"], told["checkpoint"]["step"]
    slower = max(0.0, saving["stall"] + saving["step beside"] - step) / step
    print(
        f"  a checkpoint stops the loop for {saving['stall'] / step:.1%} of a step; with the writing beside it costs "
        f"{slower:.1%} of one, every {saving['every']}"
    )
    kept = ", ".join(f"{size / 2**20:.1f} MiB in {variant}" for variant, size in told["saved for backward"].items())
    print(f"  heads and loss keep for the backward pass: {kept}")
    print(f"  the process held {told['peak resident'] / 2**30:.2f} GiB at most so far", flush=True)
