"""Preparation of a run: images, number of steps, and a trial of the settings."""

import functools

import accelerate
import torch

from star_catalog.reading import one_line
from star_zoo import Objective

from ..data import NoSuchSplit, Source, open_source
from ..data.sources.subset import hold_out, numbered
from ..data.streaming.loader import Lanes, count_lanes
from ..data.streaming.shard_order import Deal
from ..data.streaming.stream import PREFIX, Stream, open_stream
from ..data.views import MultiViewDataset, seeded, stack
from ..evaluation.features import evaluating
from ..numerics.layout import Convolutions
from ..numerics.trial import Convolution
from .module import Pretrainer
from .recipe import DataConfig, Recipe


def open_data(recipe: Recipe) -> tuple[Source, Source, Source | None]:
    """Returns training images, the labelled bank of online evaluation, and held-out images to measure on.

    The held-out images are the test split, else the validation split, else a part of a labelled training set; None
    without labels, as in a stream. Labels that are sparse ids are numbered from 0.
    """
    train, bank, held_out = _opened(recipe)
    train, bank, *rest = numbered(train, bank, *([] if held_out is None else [held_out]))
    return train, bank, rest[0] if rest else None


def _opened(recipe: Recipe) -> tuple[Source, Source, Source | None]:
    config = recipe.data
    if not config.source:
        raise ValueError(
            f"the recipe {recipe.name} has no images of its own; pass yours (--data path/to/images, data=...)"
        )
    if config.source.startswith(PREFIX):
        _check_stream(config)
        stream = open_stream(config.source, recipe.channels)
        return stream, stream, None
    if config.images is not None:
        raise ValueError(f"data.images={config.images} is for streams, but {config.source} isn't one; use data.limit")
    opened = functools.partial(open_source, config.source, max_bad=config.max_bad, channels=recipe.channels)
    train = opened("train", limit=config.limit)
    bank = train if config.bank == "train" else opened(config.bank)
    if bank.targets is None:
        return train, bank, None
    for split in ("test", "val"):
        try:
            held_out = opened(split)
        except NoSuchSplit:
            continue
        if bank is not train and held_out.fingerprint == bank.fingerprint:
            raise ValueError(
                f"data.bank={config.bank} is the split that online evaluation measures on; pass another one"
            )
        return train, bank, held_out
    if not config.hold_out:
        return train, bank, None
    rest, held_out = hold_out(train, config.hold_out, seeded(recipe.seed))
    return rest, rest, held_out


def _check_stream(config: DataConfig) -> None:
    """Raises ValueError for a stream without data.images or with data.limit."""
    if config.images is None:
        raise ValueError(f"{config.source} can't be counted; pass images per epoch with --set data.images=N")
    if config.limit is not None:
        raise ValueError(f"data.limit={config.limit} can't choose among the images of a stream; pass fewer shards")


def count_steps(recipe: Recipe, source: Source, processes: int) -> tuple[int, int]:
    """Returns optimiser steps per epoch and in all. Raises ValueError for too few images for one step."""
    if recipe.batch_size % processes:
        raise ValueError(f"batch_size {recipe.batch_size} must be a multiple of the number of processes, {processes}")
    images = recipe.batch_size * recipe.accumulate
    count = recipe.data.images or len(source)  # set for a stream
    if count < images:
        fitting = count // (recipe.accumulate * processes) * processes
        hint = f" or --set batch_size={fitting}" if fitting >= 2 else ""
        raise ValueError(
            f"{source.name} has {count} images to train on, but a step takes {images}; pass more images{hint}"
        )
    per_epoch = count // images
    return per_epoch, per_epoch * recipe.epochs


def open_lanes(recipe: Recipe, stream: Stream, place: accelerate.PartialState) -> Lanes:
    """Returns the lanes of a stream that this process reads. Raises ValueError as `count_lanes` does."""
    config, processes = recipe.data, place.num_processes
    assert config.images is not None  # checked by `open_data`
    lanes = count_lanes(config.lanes, len(stream.shards), recipe.batch_size, processes)
    deal = Deal(stream.shards, lanes, config.buffer, recipe.seed)
    return Lanes(deal, stream.name, config.images, config.max_bad, recipe.batch_size, place.process_index, processes)


def check_classes(objective: Objective, source: Source) -> None:
    """Raises ValueError if an objective's setting `num_classes` is too small for the labels."""
    outputs, targets = objective.config["settings"].get("num_classes"), source.targets
    if outputs is None or targets is None or targets.is_floating_point():
        return
    if (count := int(targets.max()) + 1) > outputs:
        raise ValueError(
            f"{source.name} has classes up to number {count - 1}, but num_classes is {outputs}; pass "
            f"--set objective_args.num_classes={count}"
        )


def check_share(objective: Objective, images: int, lanes: Lanes | None) -> None:
    """Raises ValueError if `objective.share` doesn't divide a process's batch, or a lane's part of it."""
    count, what = (lanes.each, "images of a lane in a batch") if lanes else (images, "images of a process's batch")
    if count % objective.share:
        raise ValueError(
            f"{objective.config['objective']} draws once for {objective.share} consecutive images, but there are "
            f"{count} {what}; pass a batch_size that makes them a multiple"
        )


def try_out(pretrainer: Pretrainer, recipe: Recipe, source: Source, device: torch.device) -> list[Convolution]:
    """Computes the loss of one image's views, so that settings that don't fit together fail before training.

    Returns the convolutions that ran.
    """
    try:
        objective = pretrainer.objective
        dataset = MultiViewDataset(source, objective.policy, objective.plan, recipe.seed, objective.sizes)
        # two images, because contrastive losses need a negative, or as many as share a draw
        batch = stack([dataset[0, 0]] * max(2, objective.share)).to(device).batch()
        with evaluating(pretrainer), Convolutions() as seen:
            pretrainer.forward(batch)  # forward itself is never compiled
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        problem = f"{recipe.backbone} and {recipe.objective} can't train on views of {recipe.policy.size} pixels"
        raise ValueError(f"{problem}: {one_line(error)}") from error
    return seen.found
