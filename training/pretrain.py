"""The loop that pretrains: steps, logs, online evaluation, checkpoints, exact resume, export."""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.layers import convert_sync_batchnorm
from torch import Tensor

import star_zoo
from star_zoo import View, save_pretrained
from star_zoo.files import write_json

from . import card
from .checkpoint import Checkpoint, Checkpoints
from .config import Recipe
from .data.views import MultiViewDataset, StepBatches, loader
from .features import NotFinite
from .logbook import Logbook, evaluations_of, read
from .monitor import Monitor, router_weights
from .preparation import count_steps, make_accelerator, open_data, try_out
from .pretrainer import build
from .run_folder import check_folder
from .run_state import capture, restore
from .schedule import build_optimizer, check_optimizer, learning_rate
from .signals import StopRequest


class Diverged(RuntimeError):
    """The loss became infinite or not a number."""


class Stopped(Exception):
    """The run was asked to stop by a signal; its checkpoint is written."""

    def __init__(self, step: int, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}, its checkpoint is written")
        self.exit_code = 128 + number


class Run:
    """One pretraining run in a folder: recipe.json, log.jsonl, checkpoints/, and in the end export/.

    Raises ValueError where the folder holds another run, or one that differs in what decides the weights.
    """

    def __init__(self, recipe: Recipe, out: Path, *, resume: bool = False, tracker: str | None = None):
        self.recipe, self.out = recipe, out
        self.accelerator = make_accelerator(recipe.precision, out, tracker)
        self.main = self.accelerator.is_main_process
        if self.main:
            check_folder(recipe, out / "recipe.json", resume, f"--init-from {out}")
        self.source, bank, held_out = open_data(recipe)
        self.per_epoch, self.steps = count_steps(recipe, self.source, self.accelerator.num_processes)

        torch.manual_seed(recipe.seed)
        self.pretrainer, self.notes = build(recipe)
        self.monitor = Monitor(recipe.policy, bank, held_out)
        if held_out is None:
            self.notes.append("no held-out labels: the features are not evaluated online")
        self.checkpoints = Checkpoints(out / "checkpoints", recipe.run.keep)
        self._prepare()
        try_out(self.pretrainer, recipe, self.source, self.accelerator.device)
        torch.manual_seed(recipe.seed + 1 + self.accelerator.process_index)  # dropout differs between processes

        self.step = 0
        self.seconds = 0.0  # of training, all sittings together
        self._window: list[dict[str, Tensor]] = []  # losses since the last log entry
        self._waited = 0.0  # seconds for data since then
        self._shown: dict[str, str] = {}  # beside the progress bar
        if resume:
            self._resume()
        if self.main:  # only now: a run that could not be set up leaves no folder behind
            write_json(out / "recipe.json", recipe.to_dict())
        self.logbook = Logbook(self.accelerator, out / "log.jsonl", self.step, self.steps, recipe.name)

    def _prepare(self) -> None:
        """The module and its optimiser as Accelerate wraps them: device, precision, all processes."""
        check_optimizer(self.recipe.optimizer, self.accelerator.device)
        if self.accelerator.num_processes > 1 and self.accelerator.device.type == "cuda":
            convert_sync_batchnorm(self.pretrainer)  # in place; on CUDA only, it has no CPU kernel
        optimizer = build_optimizer(self.recipe.optimizer, self.pretrainer)
        if self.recipe.compile:
            self.pretrainer.compile()  # in place: names in the state dict stay as they are
        self.model, self.optimizer = self.accelerator.prepare(self.pretrainer, optimizer)
        self.peak = self.recipe.optimizer.lr * self.recipe.batch_size * self.recipe.accumulate / 256
        self.warmup = round(self.recipe.optimizer.warmup_epochs * self.per_epoch)

    def train(self) -> dict[str, Any]:
        """Trains to the end and exports; gives the results. Raises Diverged, Stopped, OSError, DataError."""
        for note in self.notes:
            self.logbook.say(note)
        try:
            if self.step == 0 and self.recipe.run.eval_every:
                self._evaluate()
            self.pretrainer.train()
            with StopRequest() as stop:
                batches = self._batches()
                self._mark = time.perf_counter()
                while self.step < self.steps:
                    self._train_step(batches)
                    self._after_step(stop)
            return self._export()
        finally:
            self.logbook.close()

    def _after_step(self, stop: StopRequest) -> None:
        """What is due after a step: an entry, an evaluation, a checkpoint, in this order."""
        run, step = self.recipe.run, self.step
        self.logbook.progress(step, self._shown)
        epoch_ends, last = step % self.per_epoch == 0, step == self.steps
        to_save = step % run.checkpoint_every == 0 or last
        if step % run.log_every == 0 or epoch_ends or to_save or (stop.signal and self.accelerator.num_processes == 1):
            self._log()
            if epoch_ends:
                told = ", ".join(f"{name} {value}" for name, value in self._shown.items())
                self.logbook.say(f"epoch {step // self.per_epoch} of {self.recipe.epochs}: {told}")
            asked = self._agreed(stop.signal)
            to_evaluate = run.eval_every and epoch_ends and (step // self.per_epoch % run.eval_every == 0 or last)
            if to_evaluate or to_save or asked:
                self._check_weights()
            if to_evaluate:
                self._evaluate()
            if to_save or asked:
                self._checkpoint()
            if asked:
                raise Stopped(step, asked)
            self._mark = time.perf_counter()  # evaluating and saving is no training time

    def _batches(self) -> Iterator[View]:
        a, recipe = self.accelerator, self.recipe
        dataset = MultiViewDataset(self.source, recipe.policy, self.pretrainer.objective.plan, recipe.seed)
        batches = StepBatches(
            len(self.source), recipe.batch_size, recipe.accumulate, recipe.seed,
            range(self.step, self.steps), a.process_index, a.num_processes,
        )  # fmt: skip
        return iter(loader(dataset, batches, recipe.run.workers, pin=a.device.type == "cuda"))

    def _train_step(self, batches: Iterator[View]) -> None:
        """One optimiser step: `accumulate` losses, their mean gradient, one update."""
        count, device = self.recipe.accumulate, self.accelerator.device
        for k in range(count):
            before = time.perf_counter()
            images, params = next(batches)
            self._waited += time.perf_counter() - before
            # gradients are averaged over processes with the last loss only
            sync = contextlib.nullcontext() if k == count - 1 else self.accelerator.no_sync(self.model)
            with sync:
                terms = self.model(images.to(device, non_blocking=True), params.to(device, non_blocking=True))
                self.accelerator.backward(terms["loss"] / count)
            self._window.append({name: value.detach() for name, value in terms.items()})
        if self.recipe.optimizer.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(self.step) * group.get("lr_scale", 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1

    def _lr(self, step: int) -> float:
        return learning_rate(step, self.steps, self.warmup, self.peak)

    def _log(self) -> None:
        """Writes the means since the last entry; raises Diverged if a loss among them is not finite."""
        table = torch.stack([torch.stack(list(terms.values())).float() for terms in self._window])
        table = self.accelerator.reduce(table, "mean").cpu()  # the one place where the loop waits for the device
        self._check_finite(table[:, 0])
        passed = time.perf_counter() - self._mark
        self.seconds += passed
        speed = len(table) * self.recipe.batch_size / passed
        means = dict(zip(self._window[0], table.mean(0).tolist(), strict=True))
        self.logbook.write(
            self.step,
            {
                "epoch": self.step / self.per_epoch,
                **means,
                "lr": self._lr(self.step - 1),
                "images_per_second": speed,
                "data_wait": self._waited / passed,  # share of the time
                "seconds": self.seconds,
            },
        )
        self._shown = {k: f"{v:.3f}" for k, v in means.items()} | {"img/s": f"{speed:.0f}"}
        self._window, self._waited = [], 0.0
        self.source.check_bad()

    def _check_finite(self, losses: Tensor) -> None:
        """Raises Diverged naming the first step whose loss, of those since the last entry, is not finite."""
        wrong = (~losses.isfinite()).nonzero()
        if len(wrong) == 0:
            return
        first = int(wrong[0, 0])
        step = self.step - (len(losses) - first - 1) // self.recipe.accumulate
        raise self._diverged(f"the loss is {losses[first].item()} at step {step}")

    def _check_weights(self) -> None:
        """Raises Diverged where the last update, from a finite loss, made weights that are not."""
        if not all(tensor.isfinite().all() for tensor in self.pretrainer.state_dict().values()):
            raise self._diverged(f"weights are not finite after step {self.step}")

    def _diverged(self, what: str) -> Diverged:
        good = self.checkpoints.paths()
        last = f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was written yet"
        return Diverged(f"{what}; {last}. Try a lower optimizer.lr, optimizer.clip=1, or precision=no")

    def _agreed(self, number: int | None) -> int:
        """The signal that any process was sent, 0 for none: all must stop at the same step."""
        if self.accelerator.num_processes == 1:
            return number or 0
        return int(self.accelerator.gather(torch.tensor([number or 0], device=self.accelerator.device)).max())

    def _evaluate(self) -> None:
        metrics, weights = {}, None
        try:
            if self.main:
                metrics = self.monitor(self.pretrainer.backbone)
                weights = router_weights(self.pretrainer.backbone, self.pretrainer.objective, self.source)
        except NotFinite as error:
            raise self._diverged(f"{error} after step {self.step}") from error
        epoch = self.step / self.per_epoch
        if weights is not None:
            self.logbook.write(self.step, {"epoch": epoch, "router": weights.tolist()})
        if metrics:
            self.logbook.write(self.step, {"epoch": epoch, **metrics})
            told = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
            self.logbook.say(f"frozen features after epoch {epoch:.0f}: {told}")
        self.accelerator.wait_for_everyone()

    def _checkpoint(self) -> None:
        tensors, state = capture(self.pretrainer, self.optimizer, self.accelerator)
        if self.main:
            state |= {"seconds": self.seconds, "data": self.source.fingerprint}
            self.checkpoints.save(Checkpoint(self.step, tensors, state))
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        found = self.checkpoints.newest()
        if found is None:
            return  # stopped before its first checkpoint: from the start
        if found.state["data"] != self.source.fingerprint:
            raise ValueError(
                f"the images of {self.source.name} are not those that {self.out} was trained on (fingerprint "
                f"{self.source.fingerprint}, was {found.state['data']}); give the same images, or start anew with "
                f"--init-from {self.out}"
            )
        restore(found.tensors, found.state, self.pretrainer, self.optimizer, self.accelerator)
        self.step, self.seconds = found.step, found.state["seconds"]

    def _export(self) -> dict[str, Any]:
        results = self._results()
        if self.main:
            export = self.out / "export"
            try:
                save_pretrained(
                    export,
                    self.pretrainer.backbone,
                    self.pretrainer.objective,
                    model_args=self.recipe.backbone_args,
                    recipe=self.recipe.published(),
                    results=results,
                )
                card.write(export)
            except (OSError, SafetensorError) as error:
                raise OSError(f"could not write {export}: {error}; make room, then --resume exports it") from error
        self.accelerator.wait_for_everyone()
        return results

    def _results(self) -> dict[str, Any]:
        """What the run cost, and what its online evaluation found: first (untrained) and last."""
        evaluations = evaluations_of(read(self.out / "log.jsonl")) if self.main else []
        cost = {
            "steps": self.steps,
            "images": self.steps * self.recipe.batch_size * self.recipe.accumulate,
            "seconds": round(self.seconds, 1),
            "processes": self.accelerator.num_processes,
            "device": self.accelerator.device.type,
            "data_fingerprint": self.source.fingerprint,
            "versions": {"star_zoo": star_zoo.__version__, "torch": torch.__version__, "timm": timm.__version__},
        }
        return {"training": cost, "online": [evaluations[0], evaluations[-1]] if evaluations else []}
