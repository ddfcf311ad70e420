"""Pretraining: a recipe, its views, its losses in the common loop, online evaluation, export."""

import dataclasses
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from star_catalog import store
from star_catalog.decimals import fixed
from star_catalog.printing import as_typed
from star_catalog.writing import going_on
from star_zoo import objectives, save_pretrained

from ..data import Source
from ..data.streaming.loader import HeldImage
from ..data.streaming.stream import Stream
from ..data.summary import summary, summary_of_training
from ..data.views import MultiViewDataset, Packed, StepBatches, loader, small_batch
from ..engine import results
from ..engine.divergence import Cause
from ..engine.logging import evaluations_of, read
from ..engine.optim import build_optimizer, check_optimizer, learning_rate
from ..engine.results.cost import cost_of
from ..engine.run_dir import try_export
from ..engine.saving.best import Best
from ..engine.trainer import Loop
from ..evaluation.features import NotFinite
from ..evaluation.frozen_model import load
from ..messages import RESUME
from ..models.create import create
from ..models.lineage import origin
from .module import build, check_backbone
from .online_eval import Monitor, watch_heads
from .pixel_statistics import estimated
from .recipe import Recipe
from .setup import check_classes, check_share, count_steps, open_data, open_lanes, try_out


def is_whole(export: Path) -> bool:
    """Returns whether an export holds every file that a finished run writes; its card is written after the run."""
    return all((export / name).is_file() for name in store.FILES if name != "finetune.json")


def _origin(start: str) -> dict[str, Any]:
    """Returns, for the results, the model that a run starts from."""
    licence = create(start, device="meta").pretrained_cfg.get("license")
    return origin(start, licence, load(start).fingerprint)


class Run(Loop[Recipe]):
    """One pretraining run in a folder: recipe.json, log.jsonl, checkpoints/, and at the end export/.

    Raises ValueError if the folder holds another run, or this one with other settings that determine the weights.
    """

    def __init__(self, recipe: Recipe, out: Path, *, resume: bool = False, tracker: str | None = None):
        super().__init__(recipe.registered(), recipe.run, out, resume, tracker)
        self.accumulate, self.batch_size, self.clip = recipe.accumulate, recipe.batch_size, recipe.optimizer.clip
        self.eval_every = recipe.run.eval_every
        check_backbone(recipe)  # before the data are read
        self.source, bank, held_out = open_data(recipe)
        if not self.recipe.policy.mean:
            found = estimated(self.recipe.policy, self.source, recipe.channels)
            self.settings = self._choices.settings = dataclasses.replace(self.recipe, policy=found)
            self.notes.append(f"pixels of these images: mean {list(found.mean)}, standard deviation {list(found.std)}")
        recipe = self.recipe
        per_epoch, steps = count_steps(recipe, self.source, self.processes.num_processes)

        self.lanes = open_lanes(recipe, self.source, self.processes) if isinstance(self.source, Stream) else None
        self._lanes_state: dict[str, Tensor] = {}  # positions of all processes' lanes

        torch.manual_seed(recipe.seed)
        self.pretrainer, notes = build(recipe)
        check_classes(self.pretrainer.objective, self.source)
        check_share(self.pretrainer.objective, recipe.batch_size // self.processes.num_processes, self.lanes)
        counted = summary(self.source) if self.lanes else summary_of_training(self.source, held_out)
        self.notes += [counted, *notes]
        self.origin = _origin(recipe.init_from) if recipe.init_from else {}
        self.monitor = Monitor(self.pretrainer.objective.policy, bank, held_out, self.workers)
        metric = recipe.run.keep_best
        self.best = Best(metric, self.monitor.names, out, self._export_best) if metric else None
        if held_out is None:
            self.notes.append("no held-out labels: RankMe alone is measured online")
        if self.lanes and self.workers > len(self.lanes.own):
            self.notes.append(f"{len(self.lanes.own)} lanes of the stream to read, so no more workers than that")
        self.peak = recipe.optimizer.lr * recipe.batch_size * recipe.accumulate / 256
        self.warmup = round(recipe.optimizer.warmup_epochs * per_epoch)
        self._prepare()
        self.begin(steps, per_epoch, recipe.name)

    def _prepare(self) -> None:
        recipe, device = self.recipe, self.processes.device
        check_optimizer(recipe.optimizer, device)
        if self.processes.num_processes > 1 and device.type == "cuda":
            self.pretrainer.synchronise_norms()
        convolutions = try_out(self.pretrainer.to(device), recipe, self.source, device)
        share = self.pretrainer.objective.share
        self.choose(self.pretrainer, self._trial, convolutions, share)
        optimizer = build_optimizer(recipe.optimizer, self.pretrainer)
        if recipe.compile:
            self.pretrainer.compile()  # in place, so that names in the state dict don't change
        self.prepare(self.pretrainer, optimizer)
        torch.manual_seed(recipe.seed + 1 + self.accelerator.process_index)  # dropout differs between processes

    def _trial(self, images: int) -> Callable[[], Tensor]:
        """Returns the loss of one batch of so many images, as a function."""
        objective = self.pretrainer.objective
        dataset = MultiViewDataset(self.source, objective.policy, objective.plan, self.recipe.seed, objective.sizes)
        batch = small_batch(dataset, images, self.processes.device)
        return lambda: self.pretrainer.forward(batch)["loss"]

    @property
    def recipe(self) -> Recipe:
        """The recipe, with the values chosen where it was "auto"."""
        return self.settings

    @property
    def anew(self) -> str:
        return f"{as_typed('--init-from', self.out)} (init_from=...)"

    def train(self) -> dict[str, Any]:
        """Trains to the end, exports, and returns the results. Raises Diverged, Stopped, OSError, DataError."""
        if self.finished:
            return self.report_finished()
        for note in self.notes:
            self.logbook.say(note)
        with self.training():
            if self.step == 0 and self.eval_every:
                self.evaluate()
            self.run_steps()
            return self._export()

    def batches(self, steps: range) -> Generator[Packed, None, None]:
        a, recipe, objective = self.accelerator, self.recipe, self.pretrainer.objective
        pin = a.device.type == "cuda"
        views = objective.policy, objective.plan, recipe.seed, objective.sizes
        if self.lanes:
            dataset = MultiViewDataset(cast(Source, HeldImage(recipe.channels)), *views)
            yield from self.lanes.batches(len(steps) * recipe.accumulate, dataset, self.workers, pin, objective.share)
            return
        dataset = MultiViewDataset(self.source, *views)
        keys = StepBatches(
            len(self.source), recipe.batch_size, recipe.accumulate, recipe.seed, steps,
            a.process_index, a.num_processes, objective.share,
        )  # fmt: skip
        yield from loader(dataset, keys, self.workers, pin)

    def losses(self, batch: Packed) -> dict[str, Tensor]:
        return self.model(batch.to(self.accelerator.device, non_blocking=True).batch())

    @torch.no_grad()
    def updated(self) -> None:
        self.pretrainer.objective.after_step(self.pretrainer.encoder, self.step / self.steps)

    @property
    def cause(self) -> Cause:
        defaults, own = objectives.settings(self.recipe.objective), self.recipe.objective_args
        changed = [f"objective_args.{name}={value}" for name, value in own.items() if value != defaults.get(name)]
        settings = ", ".join(["the settings of the loss", *changed])
        return Cause("a lower optimizer.lr, optimizer.clip=1, or precision=no", f"{settings}, and the images")

    def learning_rate(self, step: int) -> float:
        return learning_rate(step, self.steps, self.warmup, self.peak)

    def fingerprints(self) -> dict[str, tuple[str, str]]:
        found = {"data": (self.source.fingerprint, f"images of {self.source.name}")}
        for role, model in self.pretrainer.objective.pretrained().items():
            found[role] = (model.fingerprint, f"weights of the {role} {model.name}")
        return found

    def check_data(self) -> None:
        if self.lanes:
            # here, because every process passes here before a checkpoint, which only one of them writes
            state = self.accelerator.reduce(self.lanes.state.to(self.accelerator.device)).cpu()
            self._lanes_state = {"lanes": state}
            self.lanes.check_bad(state)
        else:
            self.source.check_bad()

    def more_state(self) -> dict[str, Tensor]:
        return self._lanes_state

    def take_more_state(self, tensors: dict[str, Tensor]) -> None:
        if self.lanes:
            self.lanes.go_to(tensors["lanes"])

    def evaluate(self) -> None:
        metrics, heads = {}, {}
        try:
            if self.main:
                metrics = self.monitor(self.pretrainer.backbone)
                heads = watch_heads(self.pretrainer.backbone, self.pretrainer.objective, self.source, self.workers)
        except NotFinite as error:
            raise self.diverged(f"{error} after step {self.step}", self.step) from error
        epoch = self.step / self.per_epoch
        if heads:
            self.logbook.write(self.step, {"epoch": epoch, **heads})
        if metrics:
            self.logbook.write(self.step, {"epoch": epoch, **metrics})
            scores = ", ".join(f"{name} {fixed(value, 3)}" for name, value in metrics.items())
            images = self.monitor.images
            on = f"{images['test']:,} test images" if "test" in images else f"{images['train']:,} images"
            self.logbook.say(f"frozen features after epoch {epoch:.0f}, on {on}: {scores}")
            if self.best and (kept := self.best.offer(metrics, self.step, epoch)):
                self.logbook.say(kept)
        self.accelerator.wait_for_everyone()

    def outcome(self) -> dict[str, Any] | None:
        export = self.out / "export"
        found = results.read(export / "results.json")  # raises for a damaged file, before any step
        return found if is_whole(export) else None

    def try_export(self) -> None:
        try_export(self.out, self._save_model)

    def _export(self) -> dict[str, Any]:
        made = self._results()
        if self.main:
            export = self.out / "export"
            with going_on(f"{RESUME} to export it"):
                self._save(export, made)
        self.accelerator.wait_for_everyone()
        return made

    def _export_best(self, folder: Path, best: dict[str, Any]) -> None:
        self._save(folder, {**self._results(), "best": best})

    def _save(self, folder: Path, made: dict[str, Any]) -> None:
        self._save_model(folder)
        with results.changing(folder / "results.json") as held:  # keeps earlier evaluations of these weights
            held.update(made)

    def _save_model(self, folder: Path) -> None:
        model, args = self.pretrainer, self.recipe.backbone_args
        save_pretrained(folder, model.backbone, model.objective, model_args=args, recipe=self.recipe.published())

    def _results(self) -> dict[str, Any]:
        """Returns the cost so far, start and pretrained models, and the first and the newest online evaluation.

        With the latter are the numbers of its images.
        """
        evaluations = evaluations_of(read(self.out / "log.jsonl")) if self.main else []
        cost = cost_of(self, self.source.fingerprint)
        online = [evaluations[0], evaluations[-1]] if evaluations else []
        models = {role: model._asdict() for role, model in self.pretrainer.objective.pretrained().items()}
        more = {
            **self.origin,
            "pretrained": self.origin.get("pretrained", {}) | models,
            "online_images": self.monitor.images if online else {},
        }
        return {"training": cost, "online": online, **{name: found for name, found in more.items() if found}}
