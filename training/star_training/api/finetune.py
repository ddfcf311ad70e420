"""`finetune`: trains a whole model on labelled images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from star_catalog.files import user_path

from ..messages import noted
from ..settings.base import Changes, changed
from .arguments import NO_FOLDER, Model, Place, changes
from .trained import Trained, continuing

if TYPE_CHECKING:
    from ..finetuning.config import FineTune


@noted()
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
    given = {"model": model, "data": data, "fraction": fraction, "max_bad": max_bad, "epochs": epochs}
    made, folder = planned(settings, out, resume, **given)

    from ..data.places import check_outside
    from ..finetuning.run import FineTuning
    from ..publishing import card

    if not resume:
        check_outside(folder, made.data.source)
    how = "go on with star_training.finetune(out={folder!r}, resume=True)"
    with continuing(how, folder / FineTuning.settings_file):
        run = FineTuning(made, folder, resume=resume, tracker=tracker)
        record = run.train()
        if run.main:
            card.write_after_training(run.out, changed=not run.finished)
    metrics = record.metrics if record else {}  # further processes have no record
    return Trained(folder, {slug: metric.value for slug, metric in metrics.items()})


def planned(
    settings: Changes = (), out: Place | None = None, resume: bool = False, **given: Any
) -> "tuple[FineTune, Path]":
    """Returns the settings of a training with the given changes, and its folder; a resumed one has its own settings.

    `given` are the other arguments of `finetune`. Raises ValueError for a wrong argument, and if the folder holds no
    training to resume.
    """
    whole = given.get("model") is not None and given.get("data") is not None
    if not whole and not resume:
        raise ValueError(
            "pass a model, and labelled images (--data, data=...); or, to resume a run (--resume, resume=True), its "
            "folder (--out, out=...)"
        )
    if not whole and not out:
        raise ValueError(NO_FOLDER)

    from ..engine.run_dir import saved_settings
    from ..finetuning.config import FineTune, LabelledData
    from ..finetuning.run import FineTuning
    from ..finetuning.setup import default_out

    wanted = changes(settings, given)
    new = FineTune(model="", data=LabelledData(source=""))
    folder = user_path(out) if out else default_out(changed(new, wanted))
    start = saved_settings(FineTune, folder / FineTuning.settings_file) if resume else new
    return changed(start, wanted), folder
