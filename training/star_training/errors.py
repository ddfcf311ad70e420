"""Exceptions that end a command, and one-line messages for others. It imports nothing heavy."""

import traceback
from pathlib import Path

from star_catalog.names import folders
from star_catalog.reading import shortened

_PACKAGES = [Path(folder) for package in ("star_catalog", "star_training", "star_zoo") for folder in folders(package)]


_OF_EXTRAS = {
    "train": ("accelerate", "jinja2", "matplotlib", "numpy", "PIL", "pyarrow", "sklearn", "scipy", "tqdm", "uniplot"),
    "detect": ("pycocotools",),
    "export": ("onnx", "onnxruntime", "onnxscript"),
}


class Diverged(RuntimeError):
    """The loss or a weight became infinite or NaN."""


class LoadingError(RuntimeError):
    """An unexpected exception while loading images; the message is one line."""


def not_installed(error: ImportError) -> str | None:
    """Returns how to install a module that is missing, if it comes with an extra of star-zoo; else None."""
    name = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in _OF_EXTRAS.items() if name in modules), None)
    return extra and f"{name} is not installed, which this command needs: pip install 'star-zoo[{extra}]'"


def unexpected(error: BaseException) -> str:
    """Returns class, message and location of an exception: "KeyError: 'a' (star_training/data/views.py:38)".

    The location is the innermost line of this project in the traceback, or else the line that raised the exception.
    """
    message = shortened(" ".join("".join(traceback.format_exception_only(error)).split()))
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return message
    for frame in reversed(frames):
        for package in _PACKAGES:
            if Path(frame.filename).is_relative_to(package):
                return f"{message} ({Path(frame.filename).relative_to(package.parent)}:{frame.lineno})"
    return f"{message} ({frames[-1].filename}:{frames[-1].lineno})"
