"""Trains, evaluates and publishes star_zoo's models. It imports star_zoo; star_zoo never imports it.

Its functions are those of the commands, e.g. `star_training.pretrain("folder", data="path/to/images")`. Importing the
package imports nothing else; a function imports what it needs when it is called.
"""

import importlib

TYPE_CHECKING = False  # type checkers take it for that of typing, whose import takes most of the time of this one

if TYPE_CHECKING:
    from .api.compare import compare as compare
    from .api.embed import embed as embed
    from .api.evaluate import evaluate as evaluate
    from .api.finetune import finetune as finetune
    from .api.pretrain import pretrain as pretrain
    from .api.report import report as report

__all__ = ["compare", "embed", "evaluate", "finetune", "pretrain", "report"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.api.{name}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
