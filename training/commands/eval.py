"""evaluate frozen features"""

import argparse
import contextlib
from pathlib import Path
from typing import Any

from .. import evals


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("protocol", help=f"all, or one of {', '.join(evals.known())}")
    add("model", help="a run, a saved folder, a zoo tag, any timm name, untrained:NAME, or pixels")
    add("--data", nargs="+", help="data sets with train and test splits (all that lie in STAR_ZOO_DATA)")
    add("--seed", type=int, default=0, help="of random splits and random weights (%(default)s)")
    add("--out", type=Path, help="a results.json to add to (the model's own, where it is a folder)")


def run(arguments: argparse.Namespace) -> None:
    """Does what the command says."""
    from star_zoo import store

    from ..data.found import found
    from ..data.splits import Splits
    from ..evaluate import evaluate, record, results_file
    from ..subject import load

    protocols = evals.known() if arguments.protocol == "all" else (arguments.protocol,)
    for name in protocols:
        evals.find(name)  # a wrong name before the model is loaded
    data = arguments.data or found()
    subject = load(arguments.model, arguments.seed, store.home() / "features")
    out = arguments.out or results_file(arguments.model)
    for splits in map(Splits, data):
        with contextlib.suppress(ValueError):  # protocols report it, each in its own way
            if splits.note:
                print(splits.note)
        for protocol in protocols:
            try:
                result = evaluate(protocol, subject, splits, arguments.seed)
            except ValueError as error:
                if arguments.protocol != "all" and arguments.data:
                    raise
                print(f"{protocol} on {splits.name} left out: {error}")
                continue
            if out:
                record(out, result)
            print(_told(result))


def _told(result: dict[str, Any]) -> str:
    """A record, one line a number."""
    lines = [f"{result['model']} on {result['data']}, {result['protocol']} ({result['seconds']:.0f} s)"]
    for name, found in result["metrics"].items():
        interval = f"  [{found['low']:.4g}, {found['high']:.4g}]" if found["low"] is not None else ""
        lines.append(f"  {name:50}{found['value']:.4g}{interval}")
    return "\n".join(lines)
