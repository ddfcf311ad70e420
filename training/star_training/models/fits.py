"""Whether a model takes images of a size and returns features, found from shapes alone before anything is read.

The model is created on the meta device, whose tensors have shapes but no numbers: nothing is computed.
"""

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import get_model_input_config
from torch import Tensor
from torch.overrides import TorchFunctionMode

from star_catalog.reading import one_line

_STEP, _TRIES = 16, 8  # pixels between the sizes that are tried if one doesn't fit, and how many of them
_CLASSES = 2  # of a classifier on trial
_LIBRARIES = {"timm", "torchvision", "star_zoo", "star_training"}  # folders of code that isn't the user's

Make = Callable[[int], Any]  # image size in pixels -> the model without classifier, on the meta device


class _WrongSize(ValueError):
    """Raised where another image size may help."""


def check(make: Make, size: int, what: str, option: str, *, own: int | None = None, classifier: bool = False) -> None:
    """Raises ValueError unless a model returns one feature vector for each image of `size` x `size` pixels.

    With `classifier`, a classifier on these features is checked too. In the message `what` names the model and `option`
    the setting of the size; it lists sizes that fit, and `own`, the size of timm's weights, is tried first.
    """
    try:
        _check(make, size, what, classifier)
    except _WrongSize as error:
        fitting = sorted(_fitting(make, size, what, own))
        if not fitting:
            raise ValueError(str(error)) from error
        listed = " and ".join(map(str, fitting))
        raise ValueError(f"{error}; it takes e.g. {listed} pixels: --set {option}={fitting[0]}") from error


def _fitting(make: Make, size: int, what: str, own: int | None) -> Iterator[int]:
    """Yields up to two sizes that fit: `own`, then multiples of 16 near the given one.

    Raises ValueError for a model that is unfit at any size.
    """
    near = sorted(range(_STEP, 2 * size + 4 * _STEP, _STEP), key=lambda other: abs(other - size))
    tried = [other for other in dict.fromkeys([own or size, *near[: _TRIES + 1]]) if other != size]
    found = 0
    for other in tried:
        try:
            _check(make, other, what, False)
        except _WrongSize:
            continue
        yield other
        found += 1
        if found == 2:
            return


def _check(make: Make, size: int, what: str, classifier: bool) -> None:
    try:
        model = make(size).eval()
    except ValueError as error:
        raise _WrongSize(str(error)) from error
    methods = ("get_classifier", "reset_classifier") if classifier else ()
    if missing := [name for name in methods if not hasattr(model, name)]:
        raise ValueError(f"{what} has no method {missing[0]}, so it can't be fine-tuned; define it as timm's models do")
    features = _output(model, size, what)
    if features is None:
        return
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ValueError(
            f"{what} returns {_shape(features)} for two images instead of a vector of features for each; use a variant "
            "with pooling or another model"
        )
    width = features.shape[1]
    if width != model.head_hidden_size:
        raise ValueError(
            f"{what} returns {width} features, but its head_hidden_size is {model.head_hidden_size}; correct it, or "
            "use another model"
        )
    if classifier:
        _check_classifier(model, size, what)


def _check_classifier(model: Any, size: int, what: str) -> None:
    """Replaces the classifier, and raises ValueError unless it takes the model's features."""
    with torch.device("meta"):
        model.reset_classifier(_CLASSES)
    try:
        logits = _output(model, size, what)
    except _WrongSize as error:  # of the classifier, because the features could be computed
        raise ValueError(
            f"{what} fails with a new classifier, so it can't be fine-tuned: {_reason(error.__cause__ or error)}"
        ) from error
    if logits is not None and (not isinstance(logits, Tensor) or logits.shape != (2, _CLASSES)):
        raise ValueError(
            f"{what} returns {_shape(logits)} with a new classifier of {_CLASSES} classes, so it can't be fine-tuned"
        )


class _WithoutBatchNorm(TorchFunctionMode):
    """Within it batch norm returns its input, of the same shape: on the meta device it takes half of the time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is F.batch_norm else func(*args, **(kwargs or {}))


def _output(model: Any, size: int, what: str) -> Any:
    """Returns the model's output for two images; None if it needs numbers, which the meta device lacks."""
    try:
        channels = get_model_input_config(model)["input_size"][0]
        with _WithoutBatchNorm():
            return model(torch.zeros(2, channels, size, size, device="meta"))
    except NotImplementedError:
        return None
    except Exception as error:  # timm's networks raise many kinds
        if "meta" in str(error):
            return None
        raise _WrongSize(f"{what} doesn't take images of {size} pixels: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Returns an error's message, with its place in a user's network, e.g. "no such block (my_network.py:17)".

    An error without a message is named by its type and its place, e.g. "AssertionError (halo_attn.py:208)".
    """
    frames = traceback.extract_tb(error.__traceback__)
    frame = next(frame for frame in reversed(frames) if "torch" not in Path(frame.filename).parts)
    path, message = Path(frame.filename), one_line(error).rstrip(".") if str(error).strip() else ""
    if message and not _LIBRARIES.isdisjoint(path.parts):
        return message
    return f"{message or type(error).__name__} ({path.name}:{frame.lineno})"


def _shape(output: Any) -> str:
    return f"the shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
