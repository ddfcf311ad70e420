"""The loop that trains a detector: steps, logs, checkpoints, exact resume, and the test at its end."""

import contextlib
import importlib.metadata
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import timm
import torch
import torchvision
from timm.layers import convert_sync_batchnorm
from torch import Tensor

import star_zoo
from star_zoo.files import write_json

from .. import subject
from ..checkpoint import Checkpoint, Checkpoints
from ..data.views import StepBatches
from ..evaluate import record, results_file
from ..logbook import Logbook
from ..preparation import make_accelerator
from ..pretrain import Diverged, Stopped
from ..pretrainer import one_line
from ..run_folder import check_folder
from ..run_state import capture, restore
from ..signals import StopRequest
from .data import align
from .evaluate import measure, predict, pycocotools
from .model import build, parameter_groups
from .norms import settling
from .open import open_set
from .recipes import DetectionRecipe
from .views import Example, TrainingViews, loader


class DetectionRun:
    """One detector's training in a folder: recipe.json, log.jsonl, checkpoints/, and in the end results.json.

    Raises ValueError where the folder holds another run, or one that differs in what decides the weights.
    """

    def __init__(self, recipe: DetectionRecipe, out: Path, *, resume: bool = False):
        pycocotools()  # which the test needs: missed now, not after hours
        self.recipe, self.out = recipe, out
        self.accelerator = make_accelerator(recipe.precision, out, None)
        self.main = self.accelerator.is_main_process
        if self.main:
            check_folder(recipe, out / "recipe.json", resume, "another --out")
        splits = [open_set(recipe.data.source, split) for split in (recipe.data.train, recipe.data.test)]
        self.images, self.held_out = align(splits)
        self.views = TrainingViews(self.images, self.images.trainable, recipe.sizes, recipe.longest, recipe.seed)
        self.per_epoch = self._count_steps()

        start = subject.load(recipe.model, recipe.seed)
        self.start = start.fingerprint  # before the detector takes the backbone apart
        torch.manual_seed(recipe.seed)
        self.detector = build(start.backbone, recipe.head, len(self.images.classes), recipe.anchor, recipe.regions)
        if self.accelerator.num_processes > 1 and self.accelerator.device.type == "cuda":
            convert_sync_batchnorm(self.detector)  # in place; on CUDA only, it has no CPU kernel
        optimizer = torch.optim.SGD(
            parameter_groups(self.detector, recipe.weight_decay), lr=recipe.lr, momentum=recipe.momentum
        )
        self.model, self.optimizer = self.accelerator.prepare(self.detector, optimizer)
        self._try_out()
        torch.manual_seed(recipe.seed + 1 + self.accelerator.process_index)  # sampled regions differ between processes

        self.checkpoints = Checkpoints(out / "checkpoints", recipe.run.keep)
        self.step = 0
        self.seconds = 0.0  # of training, all sittings together
        self._window: list[dict[str, Tensor]] = []  # losses since the last log entry
        self._waited = 0.0  # seconds for data since then
        self._shown: dict[str, str] = {}  # beside the progress bar
        if resume:
            self._resume()
        if self.main:  # only now: a run that could not be set up leaves no folder behind
            write_json(out / "recipe.json", recipe.to_dict())
        self.logbook = Logbook(self.accelerator, out / "log.jsonl", self.step, recipe.steps, recipe.name)

    def train(self) -> dict[str, Any]:
        """Trains to the end and tests; gives the record. Raises Diverged, Stopped, OSError, DataError."""
        try:
            self.detector.train()
            # closed, or the workers would live on as long as anyone keeps the exception that ended the run
            todo = range(self.step, self.recipe.steps)
            with StopRequest() as stop, contextlib.closing(self._batches(todo)) as batches:
                self._mark = time.perf_counter()
                while self.step < self.recipe.steps:
                    self._train_step(batches)
                    self._after_step(stop)
            return self._test()
        finally:
            self.logbook.close()

    def _count_steps(self) -> int:
        """Steps in an epoch. Raises ValueError where there are too few images for one."""
        size, processes = self.recipe.batch_size, self.accelerator.num_processes
        if size % processes:
            raise ValueError(f"batch_size {size} is shared by {processes} processes; it must be a multiple")
        if len(self.views.kept) < size:
            told = f"{len(self.views.kept)} images of {self.images.name} have boxes"
            raise ValueError(f"{told}, too few for a step of {size}; give a smaller batch_size")
        return len(self.views.kept) // size

    def _try_out(self) -> None:
        """Shows the detector one image, so that settings that don't fit together end a run before it begins."""
        recipe = self.recipe
        try:
            predict(self.detector, self.images, [0], recipe.sizes[0], recipe.longest)
        except (AssertionError, IndexError, RuntimeError, TypeError) as error:
            told = f"{recipe.model} and head {recipe.head!r} can't see images of {recipe.sizes[0]} pixels"
            raise ValueError(f"{told}: {one_line(error)}") from error

    def _batches(self, steps: range) -> Generator[list[Example], None, None]:
        a, recipe = self.accelerator, self.recipe
        batches = StepBatches(
            len(self.views.kept), recipe.batch_size, 1, recipe.seed, steps, a.process_index, a.num_processes
        )
        yield from loader(self.views, batches, recipe.run.workers, pin=a.device.type == "cuda")

    def _losses(self, batch: list[Example]) -> dict[str, Tensor]:
        """The loss and its four terms."""
        device = self.accelerator.device
        images = [example.image.to(device, non_blocking=True).float() / 255 for example in batch]
        # torchvision keeps label 0 for the background
        targets = [{"boxes": e.boxes.to(device), "labels": e.labels.to(device) + 1} for e in batch]
        terms = self.model(images, targets)
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def _train_step(self, batches: Iterator[list[Example]]) -> None:
        before = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - before
        terms = self._losses(batch)
        self.accelerator.backward(terms["loss"])
        self._window.append({name: value.detach() for name, value in terms.items()})
        if self.recipe.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1

    def _after_step(self, stop: StopRequest) -> None:
        """What is due after a step: an entry, a checkpoint, in this order."""
        run, step = self.recipe.run, self.step
        self.logbook.progress(step, self._shown)
        to_save = step % run.checkpoint_every == 0 or step == self.recipe.steps
        if step % run.log_every == 0 or to_save or (stop.signal and self.accelerator.num_processes == 1):
            self._log()
            asked = self._agreed(stop.signal)
            if to_save or asked:
                self._check_weights()
                self._checkpoint()
            if asked:
                raise Stopped(step, asked)
            self._mark = time.perf_counter()  # saving is no training time

    def _log(self) -> None:
        """Writes the means since the last entry; raises Diverged if a loss among them is not finite."""
        table = torch.stack([torch.stack(list(terms.values())).float() for terms in self._window])
        table = self.accelerator.reduce(table, "mean").cpu()  # the one place where the loop waits for the device
        if wrong := (~table[:, 0].isfinite()).nonzero().flatten().tolist():
            step = self.step - (len(table) - wrong[0] - 1)
            raise self._diverged(f"the loss is {table[wrong[0], 0].item()} at step {step}")
        passed = time.perf_counter() - self._mark
        self.seconds += passed
        means = dict(zip(self._window[0], table.mean(0).tolist(), strict=True))
        entry = {
            "epoch": self.step / self.per_epoch,
            **means,
            "lr": self.recipe.learning_rate(self.step - 1),
            "images_per_second": len(table) * self.recipe.batch_size / passed,
            "data_wait": self._waited / passed,  # share of the time
            "seconds": self.seconds,
        }
        self.logbook.write(self.step, entry)
        self._shown = {"loss": f"{means['loss']:.3f}", "img/s": f"{entry['images_per_second']:.1f}"}
        self._window, self._waited = [], 0.0

    def _check_weights(self) -> None:
        if not all(tensor.isfinite().all() for tensor in self.detector.state_dict().values()):
            raise self._diverged(f"weights are not finite after step {self.step}")

    def _diverged(self, what: str) -> Diverged:
        good = self.checkpoints.paths()
        last = f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was written yet"
        return Diverged(f"{what}; {last}. Try a lower lr, clip=10, or a longer warmup")

    def _agreed(self, number: int | None) -> int:
        """The signal that any process was sent, 0 for none: all must stop at the same step."""
        if self.accelerator.num_processes == 1:
            return number or 0
        return int(self.accelerator.gather(torch.tensor([number or 0], device=self.accelerator.device)).max())

    def _checkpoint(self) -> None:
        tensors, state = capture(self.detector, self.optimizer, self.accelerator)
        if self.main:
            state |= {"seconds": self.seconds, "data": self.images.fingerprint, "start": self.start}
            self.checkpoints.save(Checkpoint(self.step, tensors, state))
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        found = self.checkpoints.newest()
        if found is None:
            return  # stopped before its first checkpoint: from the start
        for part, given, what in (
            ("data", self.images.fingerprint, f"images or boxes of {self.images.name}"),
            ("start", self.start, f"weights of {self.recipe.model}"),
        ):
            if found.state[part] != given:
                raise ValueError(
                    f"the {what} are not those that {self.out} was started with (fingerprint {given}, was "
                    f"{found.state[part]}); give the same, or start anew with another --out"
                )
        restore(found.tensors, found.state, self.detector, self.optimizer, self.accelerator)
        self.step, self.seconds = found.step, found.state["seconds"]

    def _test(self) -> dict[str, Any]:
        """Measures on the held-out images, shared by all processes; gives the record that results.json gets."""
        start, recipe, a = time.perf_counter(), self.recipe, self.accelerator
        if recipe.norm_batches:
            with settling(self.detector):
                for batch in self._batches(range(recipe.steps, recipe.steps + recipe.norm_batches)):
                    self._losses(batch)
        own = range(a.process_index, len(self.held_out), a.num_processes)
        found = predict(self.detector, self.held_out, own, recipe.test_size, recipe.longest)
        everyones = dict(accelerate.utils.gather_object(list(zip(own, found, strict=True))))
        measured = measure(self.held_out, [everyones[index] for index in range(len(self.held_out))])
        source = Path(recipe.data.source)  # a record is published: it keeps the name alone
        sets = {"train": self.images, "test": self.held_out}
        result = {
            "protocol": "detection",
            "model": recipe.model,
            "model_fingerprint": self.start,
            "data": source.name.removesuffix(".parquet"),
            "data_fingerprint": {name: images.fingerprint for name, images in sets.items()},
            "images": {name: len(images) for name, images in sets.items()},
            "seed": recipe.seed,
            "settings": replace(recipe, data=replace(recipe.data, source=source.name)).to_dict(),
            "metrics": {name: metric._asdict() for name, metric in measured.metrics.items()},
            "details": measured.details,
            "seconds": round(self.seconds + time.perf_counter() - start, 1),
            "versions": {"star_zoo": star_zoo.__version__, "torch": torch.__version__, "timm": timm.__version__}
            | {"torchvision": torchvision.__version__, "pycocotools": importlib.metadata.version("pycocotools")},
        }
        if self.main:
            record(self.out / "results.json", result)
            if models_own := results_file(recipe.model):
                record(models_own, result)
        return result
