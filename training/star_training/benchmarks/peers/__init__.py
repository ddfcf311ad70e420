"""A step of SimCLR from JPEGs to optimiser beside lightly's, and a supervised step of timm's, in alternating rounds.

All three read the same folder of JPEGs and train the same backbone with the same augmentations, batch, optimiser,
threads and workers, each in a process of its own that stands still outside its turns. Ours is a real run; lightly's is
the loop of its documentation; timm's is the loop of its training script with one view per image. A ratio is the median
over the rounds of the ratio within a round. lightly is installed by the user: pip install lightly.
"""

import argparse
import importlib.util
from typing import Any

from star_catalog.files import user_path

from .sizes import SIZES


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the benchmark's arguments."""
    add = parser.add_argument
    add("--size", nargs="+", choices=list(SIZES), default=list(SIZES), help="sizes to measure (default: all)")
    add("--rounds", type=int, default=5, help="rounds of the three (default: %(default)s)")
    add("--steps", type=int, default=1, help="steps of each per round (default: %(default)s)")
    batches = ", ".join(f"{size.batch} for {name}" for name, size in SIZES.items())
    add("--batch", type=int, help=f"images per step (default: {batches})")
    add("--precision", choices=("no", "bf16"), default="no", help="of all three (default: no, i.e. float32)")
    add("--workers", type=int, default=0, help="processes of each that load images (default: %(default)s)")
    add("--images", type=user_path, help="folder of images to make the JPEGs from (default: generated images)")
    add("--channels-last", action="store_true", help="the other two in channels-last memory format too, as ours is")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the comparison. Raises ValueError for counts that are too small, and without lightly."""
    for name, least in (("rounds", 1), ("steps", 1), ("batch", 2), ("workers", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} is {value}; it must be at least {least}")
    if importlib.util.find_spec("lightly") is None:
        raise ValueError("lightly is not installed, and this benchmark compares with it: pip install lightly")
    # imported here, because the parser of every command imports this module
    from .compare import compare, machine_and_peers

    found: dict[str, Any] = {
        "machine": machine_and_peers(),
        **{name: getattr(arguments, name) for name in ("precision", "workers", "channels_last")},
        "sizes": {},
    }
    for name in dict.fromkeys(arguments.size):
        found["sizes"][name] = result = compare(SIZES[name], arguments)
        print(f"{name}: {result['backbone']} at {result['pixels']} px, batch {result['batch']}", flush=True)
        _print(result)
    return found


def _print(result: dict[str, Any]) -> None:
    for side, rate in result["images per second"].items():
        memory = result["memory"][side]
        print(f"  {side:9} {rate:8.2f} images/s, {memory['resident'] / 2**20:7.0f} MiB", flush=True)
    for name in ("times lightly", "times timm, by view"):
        print("  {name:20} {median:.2f} ({least:.2f} to {most:.2f})".format(name=name, **result[name]), flush=True)
    print(f"  memory of lightly's  {result['memory of lightly']:.2f}", flush=True)
