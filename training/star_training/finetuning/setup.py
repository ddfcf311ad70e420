"""What a fine-tuning needs before its first step: a count of steps."""

import os
from pathlib import Path

from ..data.eval_sets.dataset import Splits
from .config import FineTune


def steps_per_epoch(settings: FineTune, images: int, processes: int) -> int:
    """Optimiser steps in an epoch; what doesn't fill one is left out. ValueError where there are too few images."""
    batch = settings.batch_size
    if batch % processes:
        raise ValueError(f"batch_size {batch} is shared by {processes} processes; it must be a multiple")
    if (settings.mixup or settings.cutmix) and batch // processes % 2:
        raise ValueError(f"batch_size {batch} is odd on each process; mixup and cutmix mix pairs: give an even one")
    if images < batch:
        fitting = images // (2 * processes) * 2 * processes
        hint = f", for instance --set batch_size={fitting}" if fitting >= 2 else ""
        raise ValueError(
            f"{settings.data.source} has {images} labelled images to train on, but a step takes {batch}; "
            f"give more images or a smaller batch_size{hint}"
        )
    return images // batch


def default_out(settings: FineTune) -> Path:
    """runs/finetune-MODEL-DATA, with the fraction of the labels where it is not all."""
    path = Path(os.path.abspath(settings.model))  # `.` and `..` have no name of their own
    model = path.parent.name if path.name == "export" else path.name
    fraction = "" if settings.data.fraction == 1 else f"-{settings.data.fraction:g}"
    name = f"finetune-{model.replace(':', '-')}-{Splits(settings.data.source).name.replace(':', '-')}{fraction}"
    return Path("runs") / name
