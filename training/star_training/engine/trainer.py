"""The loop that all training shares: steps, log entries, evaluations, checkpoints, stopping, exact resume."""

import abc
import contextlib
import functools
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import accelerate
import torch
from torch import Tensor, nn

from star_zoo.files import sweep, write_json

from ..data.workers import loading
from ..numerics import layout
from ..numerics.allocator import keep_large_blocks
from ..numerics.precision import describe, wrong_layers
from ..numerics.trial import Convolution
from ..settings.base import Settings
from ..settings.common import LoopConfig
from .accelerator import make_accelerator
from .background import Background
from .checkpoint import Checkpoint, Checkpoints, Snapshot
from .logging import Logbook
from .run_dir import FolderLock, check_folder
from .run_state import capture, restore
from .signals import Stopped, StopRequest


class Diverged(RuntimeError):
    """The loss or a weight became infinite or not a number."""


class Loop(abc.ABC):
    """A training in a folder: its settings, log.jsonl, checkpoints/.

    A subclass takes the data, calls `prepare` with what it built and then `begin`, and says what the loss of a batch
    is. Raises ValueError where the folder holds another run, or one that differs in what decides the weights.
    """

    settings_file = "recipe.json"
    advice = "a lower learning rate"  # what to try where the loss is no number

    def __init__(
        self, settings: Settings, precision: str, run: LoopConfig, out: Path, resume: bool, tracker: str | None
    ):
        self.out, self._settings, self._intervals, self._resuming = out, settings, run, resume
        self.accelerator = make_accelerator(precision, out, tracker)
        self.main = self.accelerator.is_main_process
        self.notes: list[str] = []  # for the reader, before the first step
        self.channels_last = True
        if self.accelerator.device.type == "cpu":
            keep_large_blocks()
        if self.main:
            check_folder(settings, out / self.settings_file, resume, self.anew)

    @property
    def anew(self) -> str:
        """What starts again with other settings or data."""
        return "another --out"

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Takes up a module and its optimiser as Accelerate wraps them: device, precision, all processes."""
        self.module = module
        self.model, self.optimizer = self.accelerator.prepare(module, optimizer)

    def choose_layout(self, convolutions: list[Convolution], wanted: bool = True) -> None:
        """Sets `channels_last`: not where a CPU fails at a convolution in it, nor where the run began without."""
        if wanted and self._resuming and (found := self._newest):
            wanted = found.state.get("channels_last", True)  # the other layout rounds differently
        faults: list[str | None] = [None]
        if wanted and self.main and self.accelerator.device.type == "cpu":
            faults = [layout.fault(convolutions, self.accelerator.mixed_precision)]
        accelerate.utils.broadcast_object_list(faults)
        if faults[0]:
            self.notes.append(f"training in contiguous layout: {faults[0]}")
        self.channels_last = wanted and not faults[0]

    def check_precision(self, module: nn.Module, loss: Callable[[], Tensor]) -> None:
        """Raises ValueError where layers of a module compute wrongly in reduced precision in the loss of a batch."""
        precision = self.accelerator.mixed_precision
        if precision != "no" and (wrong := wrong_layers(module, loss, precision)):
            raise ValueError(describe(wrong, precision, self.accelerator.device.type))

    def begin(self, steps: int, per_epoch: int, name: str) -> None:
        """Goes to where a run that is resumed stood; from here on the folder is this run's."""
        self._lock = FolderLock(self.out) if self.main else contextlib.nullcontext()
        self.finished = False
        self.steps, self.per_epoch = steps, per_epoch
        self.checkpoints = Checkpoints(self.out / "checkpoints", self._intervals.keep)
        self._snapshot, self._writer = Snapshot(), Background()
        self.step = 0
        self.seconds = 0.0  # of training, all sittings together
        self._window: list[dict[str, Tensor]] = []  # losses since the last log entry
        self._waited = 0.0  # seconds for data since then
        self._shown: dict[str, str] = {}  # beside the progress bar
        if self._resuming:
            self._resume()
            self.finished = bool(self._agreed(int(self.main and self.outcome() is not None)))
        if self.finished:  # nothing is swept or written from here on
            with self._lock:
                return
        if self.main:  # only now: a run that could not be set up leaves no folder behind
            if self._resuming:  # or the folder is not known to be a run's
                for folder in (self.out, self.out / "checkpoints", self.out / "export"):
                    sweep(folder)  # of what lives that were killed had begun
            write_json(self.out / self.settings_file, self._settings.to_dict())
        self.logbook = Logbook(self.accelerator, self.out / "log.jsonl", self.step, steps, name)

    # What a subclass says

    accumulate = 1  # losses whose mean gradient makes one step
    batch_size = 1  # images of a loss, over all processes
    clip: float | None = None  # largest gradient norm
    eval_every = 0  # epochs between calls of `evaluate`; 0: never

    @abc.abstractmethod
    def batches(self, steps: range) -> Generator[Any, None, None]:
        """The batches of some steps, `accumulate` for each."""

    @abc.abstractmethod
    def losses(self, batch: Any) -> dict[str, Tensor]:
        """The scalar "loss" of a batch first, then terms to log."""

    @abc.abstractmethod
    def learning_rate(self, step: int) -> float:
        """That of the step after `step` others."""

    @abc.abstractmethod
    def fingerprints(self) -> dict[str, tuple[str, str]]:
        """What must be the same when a run is resumed: a name in the checkpoint -> its fingerprint, what it is."""

    @abc.abstractmethod
    def outcome(self) -> dict[str, Any] | None:
        """What `train` returned, from the files that a finished run wrote last; None where any of them is missing."""

    def updated(self) -> None:
        """Called after each update of the weights."""

    def evaluate(self) -> None:
        """Measures the weights as they are, and logs it. Every process calls it."""

    def check_data(self) -> None:
        """Tells of bad images, and raises DataError where there are too many."""

    def more_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds beside module, optimiser and random states."""
        return {}

    def take_more_state(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what `more_state` gave."""

    # The loop

    def tell_finished(self) -> dict[str, Any]:
        """Says that a run that is resumed was finished already; returns its outcome."""
        if self.main:
            print(f"{self.out} is finished: nothing was left to do, nothing was changed")
        made = self.outcome()
        assert made is not None
        return made

    def run_steps(self) -> None:
        """Trains to the end. Raises Diverged, Stopped, OSError, DataError, LoadingError."""
        self.module.train()
        todo = range(self.step, self.steps)
        with self._lock, StopRequest() as stop, self._writer, loading(self.batches(todo)) as batches:
            self._mark = time.perf_counter()
            while self.step < self.steps:
                self._train_step(batches)
                self._after_step(stop)

    def _train_step(self, batches: Generator[Any, None, None]) -> None:
        """One optimiser step: `accumulate` losses, their mean gradient, one update."""
        for k in range(self.accumulate):
            before = time.perf_counter()
            batch = next(batches)
            self._waited += max(time.perf_counter() - before, 0.0)
            # gradients are averaged over processes with the last loss only
            last = k == self.accumulate - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                terms = self.losses(batch)
                self.accelerator.backward(terms["loss"] / self.accumulate)
            self._window.append({name: value.detach() for name, value in terms.items()})
        if self.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step) * group.get("lr_scale", 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.updated()

    def _after_step(self, stop: StopRequest) -> None:
        """What is due after a step: an entry, an evaluation, a checkpoint, in this order."""
        run, step = self._intervals, self.step
        self._writer.check()
        self.logbook.progress(step, self._shown)
        epoch, into = divmod(step, self.per_epoch)
        epoch_ends, last = into == 0, step == self.steps
        to_save = step % run.checkpoint_every == 0 or last
        if step % run.log_every == 0 or epoch_ends or to_save or (stop.signal and self.accelerator.num_processes == 1):
            self._log()
            if epoch_ends:
                told = ", ".join(f"{name} {value}" for name, value in self._shown.items())
                self.logbook.say(f"epoch {epoch} of {self.steps // self.per_epoch}: {told}")
            asked = self._agreed(stop.signal)
            if self.eval_every and epoch_ends and (epoch % self.eval_every == 0 or last):
                self._check_weights()
                self.evaluate()
            if to_save or asked:
                self._checkpoint(wait=last or bool(asked))
            if asked:
                raise Stopped(asked, f" after step {step}, its checkpoint is written")
            self._mark = time.perf_counter()  # evaluating and saving is no training time

    def _log(self) -> None:
        """Writes the means since the last entry; raises Diverged if a loss among them is not finite."""
        table = torch.stack([torch.stack(list(terms.values())).float() for terms in self._window])
        table = self.accelerator.reduce(table, "mean").cpu()  # the one place where the loop waits for the device
        if wrong := (~table[:, 0].isfinite()).nonzero().flatten().tolist():
            step = self.step - (len(table) - wrong[0] - 1) // self.accumulate
            raise self.diverged(f"the loss is {table[wrong[0], 0].item()} at step {step}")
        passed = max(time.perf_counter() - self._mark, 1e-9)  # a clock may be set back
        self.seconds += passed
        speed = len(table) * self.batch_size / passed
        means = dict(zip(self._window[0], table.mean(0).tolist(), strict=True))
        self.logbook.write(
            self.step,
            {
                "epoch": self.step / self.per_epoch,
                **means,
                "lr": self.learning_rate(self.step - 1),
                "images_per_second": speed,
                "data_wait": self._waited / passed,  # share of the time
                "seconds": self.seconds,
            },
        )
        self._shown = {k: f"{v:.3f}" for k, v in means.items()} | {"img/s": f"{speed:.0f}"}
        self._window, self._waited = [], 0.0
        self.check_data()

    def diverged(self, what: str) -> Diverged:
        """The error that says so, and what to do."""
        self._writer.finish()
        return self._diverged(what)

    def _diverged(self, what: str) -> Diverged:
        good = self.checkpoints.paths()
        last = f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was written yet"
        return Diverged(f"{what}; {last}. Try {self.advice}")

    def _check_weights(self) -> None:
        """Raises Diverged where the last update, from a finite loss, made weights that are not."""
        if not all(tensor.isfinite().all() for tensor in self.module.state_dict().values()):
            raise self.diverged(f"weights are not finite after step {self.step}")

    def _agreed(self, number: int | None) -> int:
        """The signal that any process was sent, 0 for none: all must stop at the same step."""
        if self.accelerator.num_processes == 1:
            return number or 0
        return int(self.accelerator.gather(torch.tensor([number or 0], device=self.accelerator.device)).max())

    # Checkpoints

    def _checkpoint(self, wait: bool) -> None:
        """Takes a copy of the state, which is written while training goes on, unless it is to wait."""
        self._writer.finish()  # one at a time
        tensors, state = capture(self.module, self.optimizer, self.accelerator)
        if self.main:
            state |= {"seconds": self.seconds, "channels_last": self.channels_last}
            state |= {name: fingerprint for name, (fingerprint, _) in self.fingerprints().items()}
            copied = self._snapshot.take({**tensors, **self.more_state()})
            step = self.step

            def write() -> None:
                if not all(t.isfinite().all() for name, t in copied.items() if name.startswith("model.")):
                    raise self._diverged(f"weights are not finite after step {step}")
                self.checkpoints.save(Checkpoint(step, copied, state))

            self._writer.start(write)
        if wait:
            self._writer.finish()
            self.accelerator.wait_for_everyone()

    @functools.cached_property
    def _newest(self) -> Checkpoint | None:
        """The checkpoint that a resumed run goes on from."""
        return Checkpoints(self.out / "checkpoints", self._intervals.keep).newest()

    def _resume(self) -> None:
        found = self._newest
        if found is None:
            return  # stopped before its first checkpoint: from the start
        for name, (given, what) in self.fingerprints().items():
            if found.state[name] != given:
                raise ValueError(
                    f"the {what} are not those that {self.out} was trained on (fingerprint {given}, was "
                    f"{found.state[name]}); give the same, or start anew with {self.anew}"
                )
        restore(found.tensors, found.state, self.module, self.optimizer, self.accelerator)
        self.take_more_state(found.tensors)
        self.step, self.seconds = found.step, found.state["seconds"]
        del self._newest  # its tensors are copied
