"""The loop of full fine-tuning: steps, logs, test accuracy, checkpoints, exact resume, export of the classifier."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch import Tensor

import star_zoo
from star_zoo import View, save_pretrained
from star_zoo.files import write_json

from .checkpoint import Checkpoint, Checkpoints
from .data.splits import Splits
from .data.views import MultiViewDataset, StepBatches, loader
from .evaluate import record, results_file
from .features import NotFinite, extract, timm_view
from .finetuning.data import one_view, open_labelled, training_policy
from .finetuning.model import Learner, build, build_optimizer
from .finetuning.preparation import steps_per_epoch
from .finetuning.settings import FineTune
from .logbook import Logbook, read
from .metric import Metric, share
from .preparation import make_accelerator
from .pretrain import Diverged, Stopped
from .run_folder import check_folder
from .run_state import capture, restore
from .schedule import learning_rate
from .signals import StopRequest


class FineTuning:
    """One fine-tuning in a folder: finetune.json, log.jsonl, checkpoints/, and in the end export/.

    Raises ValueError where the folder holds another one, or one that differs in what decides the weights.
    """

    def __init__(self, settings: FineTune, out: Path, *, resume: bool = False, tracker: str | None = None):
        self.settings, self.out = settings, out
        self.accelerator = make_accelerator(settings.precision, out, tracker)
        self.main = self.accelerator.is_main_process
        if self.main:
            check_folder(settings, out / "finetune.json", resume, "another --out")
        self.splits = Splits(settings.data.source)
        self.images, self.test, self.classes = open_labelled(settings, self.splits)
        self.per_epoch = steps_per_epoch(settings, len(self.images), self.accelerator.num_processes)
        self.steps = self.per_epoch * settings.epochs

        torch.manual_seed(settings.seed)
        self.net, self.started_from = build(settings, self.classes)
        self.view = timm_view(self.net)
        config = timm.data.resolve_model_data_config(self.net)
        self.policy = training_policy(settings.views, config["input_size"][-1], config["mean"], config["std"])
        self._prepare()
        self.checkpoints = Checkpoints(out / "checkpoints", settings.run.keep)
        torch.manual_seed(settings.seed + 1 + self.accelerator.process_index)  # dropout differs between processes

        self.step = 0
        self.seconds = 0.0  # of training, all sittings together
        self.measured: Metric | None = None  # test accuracy of the weights as they are
        self._window: list[Tensor] = []  # losses since the last log entry
        self._waited = 0.0  # seconds for data since then
        self._shown: dict[str, str] = {}  # beside the progress bar
        if resume:
            self._resume()
        if self.main:
            write_json(out / "finetune.json", settings.to_dict())
        self.logbook = Logbook(self.accelerator, out / "log.jsonl", self.step, self.steps, out.name)

    def _prepare(self) -> None:
        """The learner, its optimiser and averaged weights on their device, as Accelerate wraps them."""
        if self.accelerator.num_processes > 1 and self.accelerator.device.type == "cuda":
            convert_sync_batchnorm(self.net)  # in place; on CUDA only, it has no CPU kernel
        self.learner = Learner(self.net, self.policy, self.settings, self.classes).to(self.accelerator.device)
        ema = self.settings.ema
        self.ema = ModelEmaV3(self.net, decay=ema, use_warmup=True) if ema else None
        optimizer = build_optimizer(self.settings, self.net, self.accelerator.device)
        self.model, self.optimizer = self.accelerator.prepare(self.learner, optimizer)
        self.peak = self.settings.optimizer.lr * self.settings.batch_size / 256
        self.warmup = round(self.settings.optimizer.warmup_epochs * self.per_epoch)

    def train(self) -> dict[str, Any]:
        """Trains to the end and exports; gives the record. Raises Diverged, Stopped, OSError, DataError."""
        try:
            self.learner.train()
            with StopRequest() as stop:
                batches = self._batches()
                self._mark = time.perf_counter()
                while self.step < self.steps:
                    self._train_step(*next(batches))
                    self._after_step(stop)
            return self._export()
        finally:
            self.logbook.close()

    def _batches(self) -> Iterator[tuple[View, Tensor, float]]:
        """Views, labels and the seconds that they were waited for, step by step."""
        a, s = self.accelerator, self.settings
        assert self.images.targets is not None
        dataset = MultiViewDataset(self.images, self.policy, one_view, s.seed)
        keys = StepBatches(
            len(self.images), s.batch_size, 1, s.seed, range(self.step, self.steps), a.process_index, a.num_processes
        )
        views = iter(loader(dataset, keys, s.run.workers, pin=a.device.type == "cuda"))
        for batch in keys:
            before = time.perf_counter()
            view = next(views)
            yield view, self.images.targets[[index for _, index in batch]], time.perf_counter() - before

    def _train_step(self, view: View, labels: Tensor, waited: float) -> None:
        device = self.accelerator.device
        images, params, labels = (
            t.to(device, non_blocking=True) for t in (view.image[:, 0], view.params[:, 0], labels)
        )
        loss = self.model(images, params, labels, self.step, self.accelerator.process_index)
        self.accelerator.backward(loss)
        if self.settings.optimizer.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.optimizer.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(self.step) * group.get("lr_scale", 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.ema:
            self.ema.update(self.net, step=self.step)
        self.measured = None
        self._window.append(loss.detach())
        self._waited += waited

    def _lr(self, step: int) -> float:
        return learning_rate(step, self.steps, self.warmup, self.peak)

    def _after_step(self, stop: StopRequest) -> None:
        """What is due after a step: an entry, an evaluation, a checkpoint, in this order."""
        run, step = self.settings.run, self.step
        epoch, into = divmod(step, self.per_epoch)
        epoch_ends, last = into == 0, step == self.steps
        to_save = step % run.checkpoint_every == 0 or last
        if step % run.log_every == 0 or epoch_ends or to_save or (stop.signal and self.accelerator.num_processes == 1):
            self._log()
            asked = self._agreed(stop.signal)
            if last or (run.eval_every and epoch_ends and epoch % run.eval_every == 0):
                self._evaluate()
            if to_save or asked:
                self._checkpoint()
            if asked:
                raise Stopped(step, asked)
            self._mark = time.perf_counter()  # evaluating and saving is no training time
        self.logbook.progress(step, self._shown)

    def _log(self) -> None:
        """Writes the mean since the last entry; raises Diverged if a loss or a weight is not finite."""
        losses = self.accelerator.reduce(torch.stack(self._window).float(), "mean").cpu()
        if len(wrong := (~losses.isfinite()).nonzero()):
            first = int(wrong[0])
            raise self._diverged(f"the loss is {losses[first]} at step {self.step - len(losses) + 1 + first}")
        if not all(tensor.isfinite().all() for tensor in self.net.state_dict().values()):
            raise self._diverged(f"weights are not finite after step {self.step}")
        passed = time.perf_counter() - self._mark
        self.seconds += passed
        self.logbook.write(
            self.step,
            {
                "epoch": self.step / self.per_epoch,
                "loss": float(losses.mean()),
                "lr": self._lr(self.step - 1),
                "images_per_second": len(losses) * self.settings.batch_size / passed,
                "data_wait": self._waited / passed,  # share of the time
                "seconds": self.seconds,
            },
        )
        self._shown["loss"] = f"{losses.mean():.3f}"
        self._window, self._waited = [], 0.0
        self.images.check_bad()

    def _diverged(self, what: str) -> Diverged:
        return Diverged(f"{what}; try a lower optimizer.lr or precision=no")

    def _agreed(self, number: int | None) -> int:
        """The signal that any process was sent, 0 for none: all must stop at the same step."""
        if self.accelerator.num_processes == 1:
            return number or 0
        return int(self.accelerator.gather(torch.tensor([number or 0], device=self.accelerator.device)).max())

    def _evaluate(self) -> None:
        """Logs the test accuracy of the weights that would be exported."""
        if self.main:
            self.measured = self._accuracy()
            epoch = self.step / self.per_epoch
            self._shown["top1"] = f"{self.measured.value:.3f}"
            self.logbook.write(self.step, {"epoch": epoch, "top1": self.measured.value})
            self.logbook.say(f"epoch {epoch:.0f} of {self.settings.epochs}: test top-1 {self.measured.value:.4f}")
        self.accelerator.wait_for_everyone()

    def _accuracy(self) -> Metric:
        assert self.test.targets is not None
        try:
            hits = extract(self._kept, self.test, self.view).argmax(1) == self.test.targets
        except NotFinite as error:
            raise self._diverged(f"{error} after step {self.step}") from error
        self.test.check_bad()
        intact = torch.ones(len(hits), dtype=torch.bool)
        intact[list(self.test.bad)] = False  # another image stood in for these
        return share(hits[intact])

    @property
    def _kept(self) -> Any:
        """The network whose weights are measured and exported."""
        return self.ema.module if self.ema else self.net

    def _checkpoint(self) -> None:
        tensors, state = capture(self.learner, self.optimizer, self.accelerator)
        if self.ema:
            tensors |= {f"ema.{k}": v for k, v in self.ema.module.state_dict().items()}
        if self.main:
            state |= {"seconds": self.seconds, "data": self.images.fingerprint}
            self.checkpoints.save(Checkpoint(self.step, tensors, state))
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        found = self.checkpoints.newest()
        if found is None:
            return  # stopped before its first checkpoint: from the start
        if found.state["data"] != self.images.fingerprint:
            raise ValueError(
                f"the images of {self.images.name} are not those that {self.out} was trained on (fingerprint "
                f"{self.images.fingerprint}, was {found.state['data']}); give the same images, or another --out"
            )
        restore(found.tensors, found.state, self.learner, self.optimizer, self.accelerator)
        if self.ema:
            prefix = "ema."
            averaged = {k.removeprefix(prefix): v for k, v in found.tensors.items() if k.startswith(prefix)}
            self.ema.module.load_state_dict(averaged)
        self.step, self.seconds = found.step, found.state["seconds"]

    def _export(self) -> dict[str, Any]:
        """Writes the classifier, as plain timm loads it, and what was measured; gives the record."""
        made: dict[str, Any] = {}
        if self.main:
            self.measured = self.measured or self._accuracy()
            made = self._record(self.measured)
            names = self.images.classes
            self._kept.pretrained_cfg |= {"num_classes": self.classes, "label_names": list(names) if names else None}
            export = self.out / "export"
            try:
                save_pretrained(export, self._kept, results={"evaluations": [made]})
            except (OSError, SafetensorError) as error:
                raise OSError(f"could not write {export}: {error}; make room, then --resume exports it") from error
            if path := results_file(self.settings.model):
                record(path, made)  # as every evaluation of a model stands in its own folder
        self.accelerator.wait_for_everyone()
        return made

    def _record(self, found: Metric) -> dict[str, Any]:
        """Plain JSON in the form that `training.evaluate` gives a protocol's."""
        s, images = self.settings, {"train": self.images, "test": self.test}
        fraction = s.data.fraction
        some = "" if fraction == 1 else f", {100 * fraction:g} % of the labels"
        curve = [[e["epoch"], e["top1"]] for e in read(self.out / "log.jsonl") if "top1" in e]
        return {
            # a record replaces an earlier one of its protocol, and each fraction is a protocol of its own
            "protocol": "finetune" if fraction == 1 else f"finetune {fraction:g}",
            "model": s.model,
            "model_fingerprint": self.started_from,
            "data": self.splits.name,
            "data_fingerprint": {name: source.fingerprint for name, source in images.items()},
            "images": {name: len(source) for name, source in images.items()},
            "seed": s.seed,
            "settings": s.to_dict(),
            "metrics": {f"Fine-tuning top-1{some}": found._asdict()},
            "details": {"top-1 by epoch": curve},
            "seconds": round(self.seconds, 1),
            "versions": {"star_zoo": star_zoo.__version__, "torch": torch.__version__, "timm": timm.__version__},
        }
