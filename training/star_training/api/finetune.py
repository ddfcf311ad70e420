"""`finetune`: trains a whole model on labelled images."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from star_catalog.files import user_path

from ..settings.base import Changes, changed
from .arguments import NO_FOLDER, Model, Place
from .trained import Trained, continuing

if TYPE_CHECKING:
    from ..finetuning.config import FineTune


def finetune(
    model: Model | None = None,
    *,
    data: Place | None = None,
    fraction: float | None = None,
    max_bad: float | None = None,
    out: Place | None = None,
    epochs: int | None = None,
    settings: Changes = (),
    resume: bool = False,
    tracker: str | None = None,
) -> Trained:
    """Fine-tunes a model, exports the classifier, and returns the finished training with its test accuracy.

    Args:
        model: a run, a saved folder, a zoo tag, any timm name, "hf-hub:OWNER/NAME", "untrained:NAME".
        data: labelled images with train and test splits, as in `--data`. Only a resumed training needs neither.
        fraction: share of each class's training labels; None: all.
        max_bad: share of each split's images that may fail to decode; None: 0.01.
        out: the folder to write; None: runs/finetune-MODEL-DATA.
        epochs: passes over the training images.
        settings: any other settings by path, as in `--set`, e.g. {"optimizer.lr": 1e-3, "ema": 0.999}.
        resume: continue the training in `out` from its newest intact checkpoint, with its own settings, as `pretrain`.
        tracker: "tensorboard", "wandb" or another tracker that Accelerate supports.

    Raises as `pretrain`.
    """
    made, folder = planned(model, data, fraction, epochs, settings, max_bad=max_bad, out=out, resume=resume)

    from ..finetuning.run import FineTuning
    from ..publishing import card

    with continuing("go on with star_training.finetune(out={folder!r}, resume=True)"):
        run = FineTuning(made, folder, resume=resume, tracker=tracker)
        record = run.train()
    if run.main:
        card.write_after_training(run.out, changed=not run.finished)
    metrics = record.metrics if record else {}  # further processes have no record
    return Trained(folder, {slug: metric.value for slug, metric in metrics.items()})


def planned(
    model: Model | None = None,
    data: Place | None = None,
    fraction: float | None = None,
    epochs: int | None = None,
    settings: Changes = (),
    *,
    max_bad: float | None = None,
    out: Place | None = None,
    resume: bool = False,
) -> "tuple[FineTune, Path]":
    """Returns the settings of a training with the given changes, and its folder; a resumed one has its own settings.

    Raises ValueError for a wrong argument, and if the folder holds no training to resume.
    """
    whole = model is not None and data is not None
    if not whole and not resume:
        raise ValueError("pass a model, and labelled images with --data; or --resume with the folder of a run as --out")
    if not whole and not out:
        raise ValueError(NO_FOLDER)

    from ..engine.run_dir import saved_settings
    from ..finetuning.config import FineTune, LabelledData
    from ..finetuning.run import FineTuning
    from ..finetuning.setup import default_out

    given = {
        "model": None if model is None else os.fspath(model),
        "data.source": None if data is None else os.fspath(data),
        "data.fraction": fraction,
        "data.max_bad": max_bad,
        "epochs": epochs,
    }
    given = {path: value for path, value in given.items() if value is not None}
    changes = [*given.items(), *(settings.items() if isinstance(settings, Mapping) else settings)]
    new = FineTune(model="", data=LabelledData(source=""))
    folder = user_path(out) if out else default_out(changed(new, changes))
    start = saved_settings(FineTune, folder / FineTuning.settings_file) if resume else new
    return changed(start, changes), folder
