"""A run's folder: it holds the settings of one run, which alone may resume there, in one process at a time."""

import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from star_catalog.printing import as_typed
from star_catalog.reading import json_object, refusing
from star_catalog.writing import check_writable, writing
from star_zoo import hub

from ..messages import ANOTHER_FOLDER, RESUME
from ..settings.base import Settings, differences
from . import results
from .saving.best import FOLDER

S = TypeVar("S", bound=Settings)
_TRIAL = ".trial-"


def saved_settings(kind: type[S], path: Path) -> S:
    """Returns the settings that a run saved in its folder. Raises ValueError if there are none, or they can't be read.

    `path` is the file with the settings. The error about a run of another command names it.
    """
    if (command := _command(path.parent)) not in (None, kind.command):
        words = as_typed("star-zoo", command, "--resume", "--out", path.parent)
        raise ValueError(f"{path.parent} holds a run of {command}; go on with: {words}")
    if not path.exists():
        raise ValueError(
            f"{path.parent} holds no run to resume; start one without --resume (resume=True), or pass the run's folder "
            "(--out, out=...)"
        )
    data = json_object(path, path.name)
    with refusing(f"{path} is not a valid {path.name}"):
        return kind.from_dict(data)


def _command(folder: Path) -> str | None:
    """Returns the command whose run a folder holds; None if it holds no run, or one whose settings are incomplete."""
    if (folder / "finetune.json").exists():
        return "finetune"
    if not (recipe := folder / "recipe.json").exists():
        return None
    held = json_object(recipe, recipe.name)
    return "pretrain" if "objective" in held else "detect" if "head" in held else None


def check_folder(settings: S, path: Path, resume: bool, anew: str) -> S | None:
    """Returns the settings of the run in the folder if it is resumed, None for a new run.

    Raises ValueError unless the folder is free for a new run, or holds this run and `resume` is set, and NotWritten if
    a new run can't be written there.

    `path` is the file in the folder with the settings; `anew` is the advice on how to start again with others.
    """
    out = path.parent
    if not resume:
        if path.exists():
            with lock_folder(out):  # a folder in use must not be resumed or removed
                pass
            way_out = f"{RESUME}, or choose {ANOTHER_FOLDER}"
            log = out / "log.jsonl"
            if not any((out / "checkpoints").glob("*")) and not (log.exists() and log.stat().st_size):
                way_out += "; nothing was trained there yet, so you can also remove it and start anew"
            raise ValueError(f"{out} already holds a run; {way_out}")
        if command := _command(out):
            raise ValueError(f"{out} already holds a run of {command}; choose {ANOTHER_FOLDER}")
        for export in (out / "export", out / FOLDER):
            if (export / "results.json").exists():  # this run would overwrite them
                raise ValueError(f"{export} holds a model already; remove it, or choose {ANOTHER_FOLDER}")
        check_writable(out)
        return None
    before = saved_settings(type(settings), path)
    if found := differences(before, settings):
        raise ValueError(
            f"the settings differ from those that {out} was started with (theirs, yours): {'; '.join(found)}; "
            f"pass the same, or start anew with {anew}"
        )
    return before


def try_export(out: Path, save: Callable[[Path], object]) -> None:
    """Saves an untrained model, loads it and removes it, because an error would otherwise occur after training.

    Raises ValueError or OSError.
    """
    results.check(out / "export" / "results.json")
    for left in out.glob(f"{_TRIAL}*"):  # by a killed process, because only one process trains in the folder
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=_TRIAL) as folder:
        with refusing("the model could be trained, but not saved"), writing(out / "export", Path(folder)):
            save(Path(folder))
        hub.check(Path(folder))


def lock_folder(folder: Path, patience: float = 0.0) -> AbstractContextManager[object]:
    """Creates a folder and locks it for this process until the context is left or the process ends.

    Raises ValueError if another process holds the lock for more than `patience` seconds. File systems without locks
    admit every process.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", thread_local=False)
    try:
        return lock.acquire(timeout=patience)
    except Timeout:
        raise ValueError(f"another process is using {folder}; let it end, or choose {ANOTHER_FOLDER}") from None
    except (OSError, NotImplementedError):  # also a folder that can only be read: a finished run is reported from it
        return nullcontext()
