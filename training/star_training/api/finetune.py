"""`finetune`: trains a whole model on labelled images."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..settings.base import Changes, changed
from .arguments import Model, Place
from .trained import Trained, continuing

if TYPE_CHECKING:
    from ..finetuning.config import FineTune


def finetune(
    model: Model,
    *,
    data: Place,
    fraction: float = 1.0,
    out: Place | None = None,
    epochs: int | None = None,
    settings: Changes = (),
    resume: bool = False,
    tracker: str | None = None,
) -> Trained:
    """Fine-tunes a model, exports the classifier, and returns the finished training with its test accuracy.

    Args:
        model: a run, a saved folder, a zoo tag, any timm name, "hf-hub:OWNER/NAME", "untrained:NAME".
        data: labelled images with train and test splits, as in `--data`.
        fraction: share of each class's training labels.
        out: the folder to write; None: runs/finetune-MODEL-DATA.
        epochs: passes over the training images.
        settings: any other settings by path, as in `--set`, e.g. {"optimizer.lr": 1e-3, "ema": 0.999}.
        resume: continue from the newest intact checkpoint in `out`; a finished training is returned unchanged.
        tracker: "tensorboard", "wandb" or another tracker that Accelerate supports.

    Raises as `pretrain`.
    """
    made = made_settings(model, data, fraction, epochs, settings)

    from ..finetuning.run import FineTuning
    from ..finetuning.setup import default_out

    folder = Path(out).expanduser() if out else default_out(made)
    with continuing("repeat the call of finetune with resume=True to go on"):
        record = FineTuning(made, folder, resume=resume, tracker=tracker).train()
    metrics = record.metrics if record else {}  # further processes have no record
    return Trained(folder, {slug: metric.value for slug, metric in metrics.items()})


def made_settings(
    model: Model,
    data: Place,
    fraction: float = 1.0,
    epochs: int | None = None,
    settings: Changes = (),
) -> "FineTune":
    """Returns the default settings with the given changes. Raises ValueError for a wrong one."""
    from ..finetuning.config import FineTune, LabelledData

    labelled = LabelledData(source=os.fspath(data), fraction=fraction)
    start = FineTune(model=os.fspath(model), data=labelled)
    return changed(changed(start, {} if epochs is None else {"epochs": epochs}), settings)
