"""The choices of a run where its settings are "auto": precision and memory layout, which it keeps when resumed.

The main process decides, and all processes follow.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import accelerate

from ..numerics import choice, layout, precision, small_maps
from ..numerics.choice import Choice, Trial
from ..numerics.trial import Convolution
from ..settings.base import CHOSEN, adopted
from ..settings.common import AUTO, precision_name
from .accelerator import check_device
from .run_dir import check_folder

_FEW = 4  # images of a batch on which gradients are checked, if the loss can be computed of so few

Convolved = list[Convolution] | None  # the convolutions of a module that runs in both memory layouts


class Choices:
    """The requested and the used value of each setting, by name, with the reason.

    `settings` are those asked for; where they are "auto", a resumed run has those that it was started with, from the
    file at `path`. Raises ValueError as `check_folder` and `check_device` do.
    """

    def __init__(self, settings: Any, path: Path, resume: bool, anew: str, processes: accelerate.PartialState):
        before = _of_main(check_folder(settings, path, resume, anew) if processes.is_main_process else None)
        self.settings: Any = adopted(settings, before) if before else settings
        check_device(self.settings.precision, processes.device, resume, anew)
        self._asked = {name: getattr(settings, name) for name in CHOSEN if hasattr(settings, name)}
        self._resumed, self._processes = resume, processes
        self._why = "as at the start of the run" if resume else ""
        self._fault: str | None = None  # of channels_last on this CPU
        self.channels_last = True
        self.precision: str = self.settings.precision

    def make(
        self,
        module: Any,
        trial: Trial,
        images: int,
        share: int,
        known: Sequence[str],
        convolutions: Convolved,
        layout_before: bool | None,
    ) -> None:
        """Chooses, and stores the module's weights in the chosen layout.

        A precision among `known` is tried as by `choice.tried`, on multiples of `share` images, at most `images`, the
        number of a step in this process. If `convolutions` are given, the module has a method `use_layout`;
        `layout_before` is the layout that a resumed run was trained in. Raises ValueError if a layer computes wrong
        gradients in the precision that was asked for, or a convolution fails in the layout.
        """
        if self._processes.device.type == "cpu":
            small_maps.use(module)  # first, because the choice of a precision depends on the time of a step
        asked = self.precision
        if asked == AUTO:
            self.precision, self._why = choice.suggested(self._processes.device, known)
        self._lay_out(module, convolutions, layout_before)
        if self.precision == "no":
            return
        few = choice.enough(module, trial, self.precision, max(_FEW // share, 1) * share, images)
        if asked != AUTO:
            precision.check(module, trial(few), self.precision)
            return
        many = max(min(images, choice.IMAGES) // share * share, few)
        suggestion = Choice(self.precision, self._why)
        self.precision, self._why = _of_main(choice.tried(module, trial, suggestion, many, few))
        if self.precision == "no":
            self._lay_out(module, convolutions, layout_before)  # float32 has other kernels

    def _lay_out(self, module: Any, convolutions: Convolved, before: bool | None) -> None:
        """Uses channels_last unless it is not wanted, or fails on this CPU; a resumed run keeps its layout."""
        if convolutions is None:
            return
        asked = getattr(self.settings, "channels_last", AUTO)
        wanted = asked is not False if before is None else before  # the other layout rounds differently
        self._fault = None
        if wanted and self._processes.device.type == "cpu":
            main = self._processes.is_main_process
            self._fault = _of_main(layout.fault(convolutions, self.precision) if main else None)
        if self._fault and asked is True and not self._resumed:
            raise ValueError(f"{self._fault}; use --set channels_last=auto or false")
        self.channels_last = wanted and not self._fault
        module.use_layout(self.channels_last)

    def applied(self) -> Any:
        """Returns the settings with the values chosen where they are "auto"."""
        used = {"precision": self.precision, "channels_last": self.channels_last}
        chosen = {name: used[name] for name in self._asked if getattr(self.settings, name) == AUTO}
        return dataclasses.replace(self.settings, **chosen)

    def notes(self, workers: str) -> list[str]:
        """Returns a line that reports precision and workers, and one about the layout if channels_last fails."""
        why = self._why or choice.emulated(self.precision, self._processes.device)
        why = why and f" ({why})"
        lines = [f"precision: {precision_name(self.precision)}{why}; workers: {workers}"]
        return lines + ([f"training in contiguous layout: {self._fault}"] if self._fault else [])

    def chosen(self) -> dict[str, dict[str, Any]]:
        """Returns the values asked for and used, for the checkpoint, and the reason for the precision."""
        used = {"precision": self.precision, "channels_last": self.channels_last}
        made = {name: {"asked": asked, "used": used[name]} for name, asked in self._asked.items()}
        made["precision"] |= {"why": self._why}
        return made


def _of_main(found: Any) -> Any:
    """Returns the main process's value in all processes."""
    shared = [found]
    accelerate.utils.broadcast_object_list(shared)
    return shared[0]
