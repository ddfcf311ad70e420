"""Preparation of a fine-tuning: its number of steps and its default folder."""

import os
from pathlib import Path

from ..data.eval_sets.dataset import Splits
from .config import FineTune


def steps_per_epoch(settings: FineTune, images: int, processes: int) -> int:
    """Returns optimiser steps per epoch, without a partial last one. Raises ValueError for too few images."""
    batch = settings.batch_size
    if batch % processes:
        raise ValueError(f"batch_size {batch} must be a multiple of the number of processes, {processes}")
    if (settings.mixup or settings.cutmix) and batch // processes % 2:
        raise ValueError(f"batch_size {batch} is odd on each process; mixup and cutmix mix pairs: pass an even one")
    if images < batch:
        fitting = images // (2 * processes) * 2 * processes
        hint = f", e.g. --set batch_size={fitting}" if fitting >= 2 else ""
        raise ValueError(
            f"{settings.data.source} has {images} labelled images to train on, but a step takes {batch}; "
            f"pass more images or a smaller batch_size{hint}"
        )
    return images // batch


def default_out(settings: FineTune) -> Path:
    """Returns runs/finetune-MODEL-DATA, with the fraction of the labels if it is below 1."""
    path = Path(os.path.abspath(settings.model))  # `.` and `..` have no name of their own
    model = path.parent.name if path.name == "export" else path.name
    fraction = "" if settings.data.fraction == 1 else f"-{settings.data.fraction:g}"
    name = f"finetune-{model.replace(':', '-')}-{Splits(settings.data.source).name.replace(':', '-')}{fraction}"
    return Path("runs") / name
