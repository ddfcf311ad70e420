"""The command line: star-zoo quickstart | pretrain | convert | eval."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import evals, recipes
from .config import Recipe, override


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; gives the exit code. What a user can mend ends in one line, not in a traceback."""
    from .pretrain import Diverged, Stopped  # after argument errors: importing torch takes seconds

    arguments = parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except Stopped as stopped:
        print(f"\n{stopped}; {arguments.go_on}", file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, Diverged) as error:
        print(f"star-zoo: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; each sub-parser names its function as `command`."""
    top = argparse.ArgumentParser(prog="star-zoo", description="Pretrain, evaluate and export STAR backbones.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    quick = commands.add_parser("quickstart", help="pretrain on spirographs for two minutes, export, load, draw")
    quick.add_argument("--out", type=Path, default=Path("star-zoo-quickstart"), help="folder to write (%(default)s)")
    quick.set_defaults(command=_quickstart, go_on="run it again to go on")

    names = "\n".join(f"  {name:24}{line}" for name, line in recipes.known().items())
    pre = commands.add_parser(
        "pretrain",
        help="run a recipe",
        epilog=f"recipes:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    pre.add_argument("recipe", help="a recipe's name")
    pre.add_argument("--objective", help="another objective for the recipe (star, star_ss, equimod, simclr, ...)")
    pre.add_argument("--data", help="images: a folder, *.parquet, *.tar, torchvision:NAME, hf:NAME, spirograph")
    pre.add_argument("--out", type=Path, help="the run's folder (runs/RECIPE-OBJECTIVE)")
    pre.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="e.g. optimizer.lr=0.06")
    pre.add_argument("--resume", action="store_true", help="go on from the newest intact checkpoint")
    pre.add_argument("--init-from", metavar="MODEL_OR_RUN", help="a run, a saved folder, timm:NAME or a zoo tag")
    pre.add_argument("--max-bad", type=float, help="share of images that may fail to decode (0.01)")
    pre.add_argument("--tracker", help="tensorboard, wandb or another tracker that Accelerate knows")
    pre.set_defaults(command=_pretrain, go_on="go on with --resume")

    turn = commands.add_parser("convert", help="the authors' released checkpoints into our layout, or back")
    turn.add_argument("source", type=Path, help="a released ckpt-N.pth, or with --to-released a saved folder")
    turn.add_argument("--recipe", help="whose architecture and policy the checkpoint has, e.g. stl10_resnet18")
    way = turn.add_mutually_exclusive_group(required=True)
    way.add_argument("--out", type=Path, help="the folder to write")
    way.add_argument("--to-released", type=Path, metavar="OUT.pth", help="write a released checkpoint instead")
    turn.set_defaults(command=_convert)

    measure = commands.add_parser("eval", help="evaluate frozen features")
    measure.add_argument("protocol", help=f"all, or one of {', '.join(evals.known())}")
    measure.add_argument("model", help="a run, a saved folder, a zoo tag, any timm name, untrained:NAME, or pixels")
    measure.add_argument("--data", required=True, nargs="+", help="data sets with train and test splits")
    measure.add_argument("--seed", type=int, default=0, help="of random splits and random weights (%(default)s)")
    measure.add_argument("--out", type=Path, help="a results.json to add to (the model's own, where it is a folder)")
    measure.set_defaults(command=_eval)
    return top


def _pretrain(arguments: argparse.Namespace) -> None:
    from .pretrain import Run

    recipe = recipe_of(arguments)
    out = arguments.out or Path("runs") / f"{recipe.name}-{recipe.objective}"
    run = Run(recipe, out, resume=arguments.resume, tracker=arguments.tracker)
    run.train()
    if run.main:
        print(f'exported to {out / "export"}: timm.create_model("local-dir:{out / "export"}", pretrained=True)')


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The named recipe with what the command line changes in it."""
    recipe = recipes.find(arguments.recipe)
    if arguments.objective:
        recipe = recipe.with_objective(arguments.objective)
    changes = {"source": arguments.data, "max_bad": arguments.max_bad}
    data = dataclasses.replace(recipe.data, **{k: v for k, v in changes.items() if v is not None})
    recipe = dataclasses.replace(recipe, data=data, init_from=arguments.init_from or recipe.init_from)
    return override(recipe, arguments.set)


def _convert(arguments: argparse.Namespace) -> None:
    from .convert import convert, convert_back

    if arguments.to_released:
        convert_back(arguments.source, arguments.to_released)
    elif not arguments.recipe:
        raise ValueError("a released checkpoint doesn't say its architecture; give --recipe, such as stl10_resnet18")
    else:
        convert(arguments.source, recipes.find(arguments.recipe), arguments.out)


def _eval(arguments: argparse.Namespace) -> None:
    from star_zoo import store

    from .data.splits import Splits
    from .evaluate import evaluate, record, results_file
    from .subject import load

    protocols = evals.known() if arguments.protocol == "all" else (arguments.protocol,)
    subject = load(arguments.model, arguments.seed, store.home() / "features")
    out = arguments.out or results_file(arguments.model)
    for splits in map(Splits, arguments.data):
        for protocol in protocols:
            try:
                result = evaluate(protocol, subject, splits, arguments.seed)
            except ValueError as error:
                if arguments.protocol != "all":
                    raise
                print(f"{protocol} on {splits.name} left out: {error}")
                continue
            if out:
                record(out, result)
            print(_told(result))


def _told(result: dict[str, Any]) -> str:
    """A record on one line."""
    numbers = (
        f"{name} {m['value']:.4g}" + (f" [{m['low']:.4g}, {m['high']:.4g}]" if m["low"] is not None else "")
        for name, m in result["metrics"].items()
    )
    told = ", ".join(numbers)
    return f"{result['model']} on {result['data']}, {result['protocol']}: {told}  ({result['seconds']:.0f} s)"


def _quickstart(arguments: argparse.Namespace) -> None:
    from .quickstart import quickstart

    quickstart(arguments.out)
