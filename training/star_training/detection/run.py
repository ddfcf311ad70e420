"""Trains a detector in the common loop, and tests it at the end."""

import importlib.metadata
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import accelerate
import torch
import torchvision
from timm.layers import convert_sync_batchnorm
from torch import Tensor

from star_catalog.decimals import fixed
from star_catalog.reading import one_line

from ..data.eval_sets.dataset import Splits
from ..data.views import StepBatches
from ..data.workers import loading
from ..engine import results
from ..engine.divergence import Cause
from ..engine.environment import versions
from ..engine.trainer import Loop
from ..evaluation import frozen_model
from ..evaluation.record import Record, record, record_at_start, unwritable
from ..messages import busy
from ..models.resolve import single
from .average_precision import check_measurable, measure, predict, pycocotools
from .datasets.base import align
from .datasets.open import open_set
from .model import build, parameter_groups
from .precise_bn import settling
from .recipe import PRECISIONS, DetectionRecipe
from .views import Example, TrainingViews, loader

_PROTOCOL = "detection"  # in the record


def in_words(result: Record) -> str:
    """Returns a detector's record on one line."""
    metrics = ", ".join(f"{metric.name} {fixed(metric.value, 3)}" for metric in result.metrics.values())
    return f"{result.model} on {result.data}, {result.protocol}: {metrics}"


def losses(detector: Any, batch: list[Example], device: torch.device) -> dict[str, Tensor]:
    """Returns the loss of a batch and its four terms."""
    images = [example.image.to(device, non_blocking=True).float() / 255 for example in batch]
    # torchvision keeps label 0 for the background
    targets = [{"boxes": e.boxes.to(device), "labels": e.labels.to(device) + 1} for e in batch]
    terms = detector(images, targets)
    return {"loss": torch.stack(list(terms.values())).sum(), **terms}


class DetectionRun(Loop[DetectionRecipe]):
    """One detector's training in a folder: recipe.json, log.jsonl, checkpoints/, and at the end results.json.

    Raises ValueError if the folder holds another run, or this one with other settings that determine the weights.
    """

    precisions = PRECISIONS

    def __init__(self, recipe: DetectionRecipe, out: Path, *, resume: bool = False):
        pycocotools()  # fails now if it is missing, not at the test hours later
        super().__init__(recipe, recipe.run, out, resume, None)
        if self.main and not resume:
            results.check(out / "results.json")
            if note := unwritable(recipe.model):
                self.notes.append(note)
            if self.outcome() is not None:  # of a run whose recipe.json was removed
                raise ValueError(f"{out / 'results.json'} holds this record already; remove it, or pass another --out")
        self.batch_size, self.clip = recipe.batch_size, recipe.clip
        splits = [open_set(recipe.data.source, split) for split in (recipe.data.train, recipe.data.test)]
        self.images, self.held_out = align(splits)
        check_measurable(self.held_out)  # now, not after the training
        if shared := set(self.images.where) & set(self.held_out.where):
            raise ValueError(
                f"data.train={recipe.data.train} and data.test={recipe.data.test} share {len(shared)} images, e.g. "
                f"{min(shared)}; pass splits that share none"
            )
        self.views = TrainingViews(self.images, self.images.trainable, recipe.sizes, recipe.longest, recipe.seed)
        per_epoch = self._count_steps()

        single(recipe.model, "a detector is built on the maps of a single model")
        start = frozen_model.load(recipe.model, recipe.seed)
        self.start = start.fingerprint  # before the detector takes the backbone apart
        torch.manual_seed(recipe.seed)
        self.detector = build(
            start.backbone.cpu(), recipe.head, len(self.images.classes), recipe.anchor, recipe.regions
        )
        if self.processes.num_processes > 1 and self.processes.device.type == "cuda":
            convert_sync_batchnorm(self.detector)  # in place; on CUDA only, it has no CPU kernel
        self.detector.to(self.processes.device)
        self._try_out()
        self.choose(self.detector, self._trial)
        groups = parameter_groups(self.detector, recipe.weight_decay)
        self.prepare(self.detector, torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum))
        torch.manual_seed(recipe.seed + 1 + self.processes.process_index)  # sampled regions differ between processes
        self.begin(recipe.steps, per_epoch, recipe.name)

    def train(self) -> Record:
        """Trains to the end, tests, and returns the record. Raises Diverged, Stopped, OSError, DataError."""
        if self.finished:
            return self.report_finished()
        counts = f"{len(self.images):,} in {self.recipe.data.train}, {len(self.held_out):,} in {self.recipe.data.test}"
        self.logbook.say(f"{self.images.name}: images with boxes of {len(self.images.classes):,} classes: {counts}")
        for note in self.notes:
            self.logbook.say(note)
        with self.training():
            self.run_steps()
            return self._test()

    def _count_steps(self) -> int:
        """Returns the steps per epoch. Raises ValueError for too few images for one step."""
        size, processes = self.recipe.batch_size, self.processes.num_processes
        if size % processes:
            raise ValueError(f"batch_size {size} must be a multiple of the number of processes, {processes}")
        if len(self.views.kept) < size:
            found = f"{len(self.views.kept)} images of {self.images.name} have boxes"
            raise ValueError(f"{found}, too few for a step of {size}; pass a smaller batch_size")
        return len(self.views.kept) // size

    def _trial(self, images: int) -> Callable[[], Tensor]:
        """Returns the loss of one batch of so many images, at most all, as a function."""
        batch = [self.views[0, index] for index in range(min(images, len(self.views.kept)))]
        return lambda: losses(self.detector, batch, self.processes.device)["loss"]

    @property
    def recipe(self) -> DetectionRecipe:
        """The recipe, with the values chosen where it was "auto"."""
        return self.settings

    def _try_out(self) -> None:
        """Runs the detector on one image, so that settings that don't fit together fail before training."""
        recipe = self.recipe
        try:
            predict(self.detector, self.images, [0], recipe.sizes[0], recipe.longest)
        except (AssertionError, IndexError, RuntimeError, TypeError) as error:
            failed = f"{recipe.model} and head {recipe.head!r} can't process images of {recipe.sizes[0]} pixels"
            raise ValueError(f"{failed}: {one_line(error)}") from error

    def batches(self, steps: range) -> Generator[list[Example], None, None]:
        a, recipe = self.accelerator, self.recipe
        batches = StepBatches(
            len(self.views.kept), recipe.batch_size, 1, recipe.seed, steps, a.process_index, a.num_processes
        )
        yield from loader(self.views, batches, self.workers, pin=a.device.type == "cuda")

    def losses(self, batch: list[Example]) -> dict[str, Tensor]:
        """Returns the loss and its four terms."""
        return losses(self.model, batch, self.accelerator.device)

    @property
    def cause(self) -> Cause:
        return Cause("a lower lr, clip=10, or a longer warmup", "the weights of the model, the images and the boxes")

    def learning_rate(self, step: int) -> float:
        return self.recipe.learning_rate(step)

    def fingerprints(self) -> dict[str, tuple[str, str]]:
        return {
            "data": (self.images.fingerprint, f"images or boxes of {self.images.name}"),
            "start": (self.start, f"weights of {self.recipe.model}"),
        }

    def outcome(self) -> Record | None:
        own = {"protocol": _PROTOCOL, "model": self.recipe.published()["model"], "seed": self.recipe.seed}
        records = results.read(self.out / "results.json").get("evaluations", [])
        found = (r for r in records if all(r.get(key) == value for key, value in own.items()))
        return next(map(Record.from_dict, found), None)

    def _test(self) -> Record:
        """Measures on the held-out images, split over all processes; writes and returns the record."""
        start, recipe, a = time.perf_counter(), self.recipe, self.accelerator
        if recipe.norm_batches:
            batches = self.batches(range(recipe.steps, recipe.steps + recipe.norm_batches))
            with settling(self.detector), loading(batches):
                for batch in batches:
                    self.losses(batch)
        own = range(a.process_index, len(self.held_out), a.num_processes)
        with busy(lambda: f"testing on {len(own)} images"):
            found = predict(self.detector, self.held_out, own, recipe.test_size, recipe.longest)
        everyones = dict(accelerate.utils.gather_object(list(zip(own, found, strict=True))))
        measured = measure(self.held_out, [everyones[index] for index in range(len(self.held_out))])
        sets, settings = {"train": self.images, "test": self.held_out}, recipe.published()
        libraries = {"torchvision": torchvision.__version__, "pycocotools": importlib.metadata.version("pycocotools")}
        result = Record(
            protocol=_PROTOCOL,
            model=settings["model"],
            model_fingerprint=self.start,
            data=Splits(recipe.data.source).name,
            data_fingerprint={name: images.fingerprint for name, images in sets.items()},
            images={name: len(images) for name, images in sets.items()},
            seed=recipe.seed,
            settings=settings,
            metrics=measured.metrics,
            details=measured.details,
            seconds=round(self.seconds + time.perf_counter() - start, 1),
            versions=versions() | libraries,
        )
        if self.main:
            self.logbook.result(in_words(result))  # first, so that it isn't lost if recording fails
            if note := record_at_start(recipe.model, result, recipe.data.source):
                self.logbook.say(note)
            record(self.out / "results.json", result, recipe.data.source)  # last, because it marks the run as finished
        return result
