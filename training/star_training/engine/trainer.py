"""The loop of every training command: steps, log entries, evaluations, checkpoints, stopping, bit-exact resume.

The bits depend on the number of threads and processes, see `environment.other_bits`.
"""

import contextlib
import functools
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from star_catalog.decimals import fixed
from star_catalog.files import sweep, write_json

from ..data.workers import loading, useful_beside
from ..errors import Diverged
from ..messages import ANOTHER_FOLDER, busy, say
from ..numerics.allocator import keep_large_blocks
from ..numerics.choice import Trial
from ..settings.base import Settings
from ..settings.common import LoopConfig
from .accelerator import make_accelerator, start_processes
from .choices import Choices, Convolved
from .divergence import explained, loss_found
from .environment import computed_with, other_bits, print_details
from .hooks import Hooks
from .logging import Logbook
from .run_dir import lock_folder
from .saving.background import Background
from .saving.checkpoint import Checkpoint, Checkpoints, Snapshot
from .saving.run_state import capture, restore
from .signals import Stopped, StopRequest

S = TypeVar("S", bound=Settings)
_STOPPING = "stopping as soon as a checkpoint is written; a second signal ends the run at once, without one"


class Loop(Hooks, Generic[S]):
    """A training run in a folder with its settings, log.jsonl and checkpoints/.

    A subclass implements `Hooks`, opens the data, and calls `choose` and `prepare` with its module, then `begin`.
    Raises ValueError if the folder holds another run, or the same run with settings that change the weights.
    """

    settings_file = "recipe.json"

    def __init__(self, settings: S, run: LoopConfig, out: Path, resume: bool, tracker: str | None):
        self.out, self._intervals, self._resuming, self._tracker = out, run, resume, tracker
        self.processes = start_processes(tracker)
        self.main = self.processes.is_main_process
        self.notes: list[str] = []  # printed before the first step
        if self.processes.device.type == "cpu":
            keep_large_blocks()
        self._choices = Choices(settings, out / self.settings_file, resume, self.anew, self.processes)
        self.settings: S = self._choices.settings
        self.workers = run.workers if isinstance(run.workers, int) else useful_beside(self.processes.device)

    @property
    def anew(self) -> str:
        """The advice, for messages, on how to start again with other settings or data."""
        return ANOTHER_FOLDER

    def choose(self, module: nn.Module, trial: Trial, convolutions: Convolved = None, share: int = 1) -> None:
        """Chooses precision and memory layout by `Choices.make`, then makes the Accelerator."""
        images, found = self.batch_size // self.processes.num_processes, self._newest if self._resuming else None
        layout = found.state.get("channels_last", True) if found else None
        self._choices.make(module, trial, images, share, self.precisions, convolutions, layout)
        self.settings = self._choices.applied()
        self.notes += self._choices.notes(str(self.workers))
        self.accelerator = make_accelerator(self._choices.precision, self.out, self._tracker)

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Wraps a module and its optimiser with Accelerate for the device, the precision and all processes."""
        self.module = module
        self.model, self.optimizer = self.accelerator.prepare(module, optimizer)

    def begin(self, steps: int, per_epoch: int, name: str) -> None:
        """Locks the folder for this run, restores the newest checkpoint if the run is resumed, and opens the log."""
        self._lock = lock_folder(self.out) if self.main else contextlib.nullcontext()
        self.finished = False
        self.steps, self.per_epoch = steps, per_epoch
        self.checkpoints = Checkpoints(self.out / "checkpoints", self._intervals.keep)
        self._snapshot, self._writer = Snapshot(), Background()
        self.chosen = self._choices.chosen()
        self.step, self.seconds = 0, 0.0  # seconds of training, including those before a resume
        self._window: list[dict[str, Tensor]] = []  # losses since the last log entry
        self._first_loss: float | None = None  # at step 1; None after a resume
        self._waited = 0.0  # seconds of waiting for data since then
        self._shown: dict[str, str] = {}  # displayed beside the progress bar
        if self._resuming:
            self._resume()
            self.finished = bool(self._agreed(int(self.main and self.outcome() is not None)))
        if self.finished:  # nothing may be swept or written
            with self._lock:
                return
        if self.main:  # not earlier, so that a run whose setup fails leaves no folder behind
            sweep(self.out, self.settings_file)  # removes partial files of killed processes
            # the folder of a new run may hold other files
            for folder in (self.out, self.out / "checkpoints", self.out / "export") if self._resuming else ():
                sweep(folder)
            if self.step == 0:
                self.try_export()
            write_json(self.out / self.settings_file, self.settings.to_dict())
            print_details(self.settings, self.processes)
        self.logbook = Logbook(self.accelerator, self.out / "log.jsonl", self.step, steps, name)

    # The loop

    def report_finished(self) -> Any:
        """Prints that the resumed run was already finished, and returns its outcome."""
        if self.main:
            say(f"{self.out} is finished: nothing was left to do, nothing was changed")
        outcome = self.outcome()
        assert outcome is not None
        return outcome

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Closes the log at the end; turns an interrupt, e.g. of an evaluation or an export, into Stopped."""
        try:
            yield
        except KeyboardInterrupt as interrupt:
            saved = self.checkpoints.paths()
            newest = f"the newest checkpoint is {saved[-1].name}" if saved else "there is no checkpoint"
            raise Stopped.by(interrupt, f" after step {self.step}, {newest}", self.out) from None
        finally:
            self.logbook.close()

    def run_steps(self) -> None:
        """Trains to the end. Raises Diverged, Stopped, OSError, DataError, LoadingError."""
        self.module.train()
        todo = range(self.step, self.steps)
        with (
            self._lock,
            StopRequest(_STOPPING if self.main else "") as stop,
            self._writer,
            loading(self.batches(todo)) as batches,
            busy(self.logbook.line),
        ):
            self._mark = time.perf_counter()
            while self.step < self.steps:
                self._train_step(batches)
                self._after_step(stop)

    def _train_step(self, batches: Generator[Any, None, None]) -> None:
        """Runs one optimiser step: averages the gradients of `accumulate` batches and updates the weights."""
        for k in range(self.accumulate):
            before = time.perf_counter()
            batch = next(batches)
            self._waited += max(time.perf_counter() - before, 0.0)
            # gradients are averaged over processes in the last batch's backward pass only
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
        """Logs, evaluates and saves a checkpoint, in this order, as scheduled for the step."""
        run, step = self._intervals, self.step
        self._writer.check()
        self.logbook.progress(step, self._shown)
        epoch, into = divmod(step, self.per_epoch)
        epoch_ends, last = into == 0, step == self.steps
        to_save = step % run.checkpoint_every == 0 or last
        if step % run.log_every == 0 or epoch_ends or to_save or (stop.signal and self.accelerator.num_processes == 1):
            terms = self._log()
            if epoch_ends and self.main:
                self._print_epoch(epoch, terms)
            stopping = self._agreed(stop.signal)
            if self.eval_every and epoch_ends and (epoch % self.eval_every == 0 or last):
                self._check_weights()
                self.evaluate()
            if to_save or stopping:
                self._checkpoint(wait=last or bool(stopping))
            if stopping:
                raise Stopped(stopping, f" after step {step}, its checkpoint is written", self.out)
            self._mark = time.perf_counter()  # training time excludes evaluations and checkpoints

    def _log(self) -> dict[str, float]:
        """Writes and returns the means since the last entry. Raises Diverged if a loss among them is not finite."""
        table = torch.stack([torch.stack(list(terms.values())).float() for terms in self._window])
        table = self.accelerator.reduce(table, "mean").cpu()  # the one place where the loop waits for the device
        if self.step * self.accumulate == len(table):
            self._first_loss = table[0, 0].item()
        if wrong := (~table[:, 0].isfinite()).nonzero().flatten().tolist():
            step = self.step - (len(table) - wrong[0] - 1) // self.accumulate
            terms = dict(zip(self._window[0], table[wrong[0]].tolist(), strict=True))
            raise self.diverged(loss_found(terms, step), step - 1)
        passed = max(time.perf_counter() - self._mark, 1e-9)  # the clock may be set back
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
                "data_wait": self._waited / passed,  # as a fraction of the time
                "seconds": self.seconds,
            },
        )
        self._shown = _in_words(means, speed)
        self._window, self._waited = [], 0.0
        self.check_data()
        return means

    def _print_epoch(self, epoch: int, terms: Iterable[str]) -> None:
        """Prints the means of loss terms over the epoch that has just ended, and its speed."""
        means, seconds = self.logbook.epoch(self.per_epoch, terms)
        found = _in_words(means, self.per_epoch * self.accumulate * self.batch_size / seconds)
        values = ", ".join(f"{name} {value}" for name, value in found.items())
        self.logbook.say(f"epoch {epoch} of {self.steps // self.per_epoch}: {values}")

    def diverged(self, what: str, updates: int) -> Diverged:
        """Returns the error to raise about what isn't finite after so many updates of the weights, with advice."""
        self._writer.finish()
        return self._diverged(what, updates)

    def _diverged(self, what: str, updates: int) -> Diverged:
        good, rate = self.checkpoints.paths(), self.learning_rate(max(updates - 1, 0))
        return Diverged(explained(what, updates, self._first_loss, rate, self.cause, good[-1] if good else None))

    def _check_weights(self) -> None:
        """Raises Diverged if the last update produced weights that are not finite, even from a finite loss."""
        if not all(tensor.isfinite().all() for tensor in self.module.state_dict().values()):
            raise self.diverged(f"weights are not finite after step {self.step}", self.step)

    def _agreed(self, number: int | None) -> int:
        """Returns the signal that any process received, or 0, because all must stop at the same step."""
        if self.accelerator.num_processes == 1:
            return number or 0
        return int(self.accelerator.gather(torch.tensor([number or 0], device=self.accelerator.device)).max())

    # Checkpoints

    def _checkpoint(self, wait: bool) -> None:
        """Copies the state and writes it in the background; `wait` waits for the end of the write."""
        self._writer.finish()  # one write at a time
        tensors, state = capture(self.module, self.optimizer, self.accelerator)
        if self.main:
            state |= {"seconds": self.seconds, "channels_last": self._choices.channels_last, "chosen": self.chosen}
            state["computed_with"] = computed_with(self.processes)
            state |= {name: fingerprint for name, (fingerprint, _) in self.fingerprints().items()}
            copied = self._snapshot.take({**tensors, **self.more_state()})
            step = self.step

            def write() -> None:
                if not all(t.isfinite().all() for name, t in copied.items() if name.startswith("model.")):
                    raise self._diverged(f"weights are not finite after step {step}", step)
                self.checkpoints.save(Checkpoint(step, copied, state))

            self._writer.start(write)
        if wait:
            self._writer.finish()
            self.accelerator.wait_for_everyone()

    @functools.cached_property
    def _newest(self) -> Checkpoint | None:
        """Returns the checkpoint that a resumed run continues from."""
        return Checkpoints(self.out / "checkpoints", self._intervals.keep).newest()

    def _resume(self) -> None:
        found = self._newest
        if found is None:  # the run ended before its first checkpoint
            if not self.checkpoints.paths():
                self.notes.append(f"no checkpoint in {self.out}, so the run starts at step 0")
            return
        for name, (given, noun) in self.fingerprints().items():
            if found.state.get(name, given) != given:  # older checkpoints lack some
                raise ValueError(
                    f"the {noun} are not those that {self.out} began with (fingerprint {given}, was "
                    f"{found.state[name]}); pass the same, or start anew with {self.anew}"
                )
        if note := other_bits(found.state.get("computed_with"), computed_with(self.processes), found.step):
            self.notes.append(note)
        restore(found.tensors, found.state, self.module, self.optimizer, self.accelerator)
        self.take_more_state(found.tensors)
        self.step, self.seconds = found.step, found.state["seconds"]
        self.chosen = found.state.get("chosen", self.chosen)
        del self._newest  # its tensors are copied


def _in_words(losses: dict[str, float], speed: float) -> dict[str, str]:
    """Returns mean losses and a speed in images per second as text, by their displayed names."""
    return {name: fixed(value, 3) for name, value in losses.items()} | {"img/s": f"{speed:.0f}"}
