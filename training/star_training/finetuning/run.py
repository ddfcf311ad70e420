"""Full fine-tuning: labelled views and their loss in the common loop, test accuracy, export of the classifier."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from star_catalog.decimals import significant
from star_catalog.files import write_json
from star_catalog.names import slugify
from star_catalog.printing import printable
from star_catalog.writing import going_on
from star_zoo import save_pretrained
from star_zoo.wrappers.canonical import Activations, Canonical

from ..data.eval_sets.dataset import Splits
from ..data.intact import check_intact
from ..data.summary import summary_of_training
from ..data.views import MultiViewDataset, Packed, StepBatches, loader, small_batch
from ..engine import results
from ..engine.divergence import Cause
from ..engine.environment import versions
from ..engine.logging import read
from ..engine.optim import learning_rate
from ..engine.results.cost import cost_of
from ..engine.run_dir import try_export
from ..engine.saving.best import Best
from ..engine.trainer import Loop
from ..evaluation.features import NotFinite, evaluating, extract, timm_view
from ..evaluation.metrics import ACCURACY, SHARE, Estimate, Metric, by_slug, share
from ..evaluation.record import Record, record, record_at_start, unwritable
from ..messages import RESUME
from ..models.lineage import OF_WEIGHTS, origin
from ..numerics.layout import Convolutions
from .config import FineTune
from .data import class_names, one_view, open_labelled, training_policy
from .model import Learner, build, build_optimizer
from .setup import steps_per_epoch
from .start import channels, check


def in_words(made: Record) -> str:
    """Returns a fine-tuning's record on one line."""
    found = (f"{m.name} {m.text(significant)}{' %' if m.is_share else ''}" for m in made.metrics.values())
    return printable(f"{made.model} on {made.data}: {', '.join(found)}")


class FineTuning(Loop[FineTune]):
    """One fine-tuning in a folder: finetune.json, log.jsonl, checkpoints/, and at the end export/.

    Raises ValueError if the folder holds another one, or this one with other settings that determine the weights.
    """

    settings_file = "finetune.json"

    def __init__(self, settings: FineTune, out: Path, *, resume: bool = False, tracker: str | None = None):
        super().__init__(settings, settings.run, out, resume, tracker)
        if self.main and not resume and (note := unwritable(settings.model)):
            self.notes.append(note)
        self.batch_size, self.clip = settings.batch_size, settings.optimizer.clip
        self.eval_every = settings.run.eval_every or settings.epochs  # the last epoch is always evaluated
        metric = settings.run.keep_best
        self.best = Best(metric, ["top1"], out, self._export_best) if metric else None
        check(settings)  # before the data are read
        self.splits = Splits(settings.data.source, channels(settings), settings.data.max_bad)
        self.images, self.test, self.classes = open_labelled(settings, self.splits)
        per_epoch = steps_per_epoch(settings, len(self.images), self.processes.num_processes)

        torch.manual_seed(settings.seed)
        self.net, self.started_from = build(settings, self.classes)
        self.origin = origin(settings.model, self.net.pretrained_cfg.get("license"), self.started_from)
        self.view = timm_view(self.net)
        config = timm.data.resolve_model_data_config(self.net)
        self.policy = training_policy(settings.views, config["input_size"][-1], config["mean"], config["std"])
        self.peak = settings.optimizer.lr * settings.batch_size / 256
        self.warmup = round(settings.optimizer.warmup_epochs * per_epoch)
        self.measured: Estimate | None = None  # test accuracy of the current weights
        self._prepare()
        torch.manual_seed(settings.seed + 1 + self.processes.process_index)  # dropout differs between processes
        self.begin(per_epoch * settings.epochs, per_epoch, out.name)

    def _prepare(self) -> None:
        """Creates the learner, its optimiser and its averaged weights, on their device."""
        device, ema = self.processes.device, self.settings.ema
        if self.processes.num_processes > 1 and device.type == "cuda":
            convert_sync_batchnorm(self.net)  # in place; on CUDA only, it has no CPU kernel
        with evaluating(self.net), Convolutions() as seen:
            self.net(torch.zeros(2, self.policy.channels, self.policy.size, self.policy.size))
        self.learner = Learner(self.net, self.policy, self.settings, self.classes).to(device)
        self.choose(self.learner, self._trial, seen.found)
        self.ema = ModelEmaV3(self.net, decay=ema, use_warmup=True) if ema else None
        self.prepare(self.learner, build_optimizer(self.settings, self.net, device))

    def _trial(self, images: int) -> Callable[[], Tensor]:
        """Returns the loss of one batch of so many images, as a function."""
        dataset = MultiViewDataset(self.images, self.policy, one_view(self.policy), self.settings.seed)
        batch = small_batch(dataset, images, self.processes.device)
        return lambda: self.learner.forward(batch, 0, 0)

    def train(self) -> Record | None:
        """Trains to the end, exports, and returns the record; only the main process has one.

        Raises Diverged, Stopped, OSError, DataError.
        """
        if self.finished:
            return self.report_finished()
        self.logbook.say(summary_of_training(self.images, self.test))
        for note in filter(None, (self.splits.note, *self.notes)):
            self.logbook.say(note)
        with self.training():
            self.run_steps()
            return self._export()

    def batches(self, steps: range) -> Generator[Packed, None, None]:
        a, s = self.accelerator, self.settings
        dataset = MultiViewDataset(self.images, self.policy, one_view(self.policy), s.seed)
        keys = StepBatches(len(self.images), s.batch_size, 1, s.seed, steps, a.process_index, a.num_processes)
        yield from loader(dataset, keys, self.workers, pin=a.device.type == "cuda")

    def losses(self, batch: Packed) -> dict[str, Tensor]:
        on_device = batch.to(self.accelerator.device, non_blocking=True).batch()
        return {"loss": self.model(on_device, self.step, self.accelerator.process_index)}

    @property
    def cause(self) -> Cause:
        return Cause("a lower optimizer.lr or precision=no", "the weights and views of the model, and the images")

    def learning_rate(self, step: int) -> float:
        return learning_rate(step, self.steps, self.warmup, self.peak)

    def fingerprints(self) -> dict[str, tuple[str, str]]:
        return {
            "data": (self.images.fingerprint, f"images of {self.images.name}"),
            "test": (self.test.fingerprint, f"test images of {self.test.name}"),
        }

    def check_data(self) -> None:
        self.images.check_bad()

    def updated(self) -> None:
        if self.ema:
            self.ema.update(self.net, step=self.step)
        self.measured = None

    def more_state(self) -> dict[str, Tensor]:
        return {f"ema.{k}": v for k, v in self.ema.module.state_dict().items()} if self.ema else {}

    def take_more_state(self, tensors: dict[str, Tensor]) -> None:
        if self.ema:
            prefix = "ema."
            averaged = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            self.ema.module.load_state_dict(averaged)

    def evaluate(self) -> None:
        """Logs the test accuracy of the weights that would be exported."""
        if self.main:
            self.measured = self._accuracy()
            epoch = self.step / self.per_epoch
            self._shown["top1"] = f"{self.measured.value:.3f}"
            self.logbook.write(self.step, {"epoch": epoch, "top1": self.measured.value})
            self.logbook.say(f"epoch {epoch:.0f} of {self.settings.epochs}: test top-1 {self.measured.value:.4f}")
            if self.best and (kept := self.best.offer({"top1": self.measured.value}, self.step, epoch)):
                self.logbook.say(kept)
        self.accelerator.wait_for_everyone()

    def _accuracy(self) -> Estimate:
        assert self.test.targets is not None
        logits = self._outputs(self._kept)
        return share(logits.argmax(1) == self.test.targets)

    def _outputs(self, module: nn.Module) -> Tensor:
        """Returns a module's outputs for the test images."""
        try:
            found = extract(module, self.test, self.view, workers=self.workers)
        except NotFinite as error:
            raise self.diverged(f"{error} after step {self.step}", self.step) from error
        check_intact(self.test)
        return found

    @property
    def _kept(self) -> Any:
        """The network whose weights are measured and exported."""
        return self.ema.module if self.ema else self.net

    def outcome(self) -> Record | None:
        export, s = self.out / "export", self.settings
        records = results.read(export / "results.json").get("evaluations", [])
        own = {"protocol": self._protocol, "model": s.published()["model"], "seed": s.seed}
        found = [r for r in records if all(r.get(key) == value for key, value in own.items())]
        whole = all((export / name).is_file() for name in ("model.safetensors", "config.json"))
        return Record.from_dict(found[0]) if whole and found else None

    def _export(self) -> Record | None:
        """Writes the classifier in timm's format and its record; returns the record in the main process."""
        made = None
        if self.main:
            self.measured = self.measured or self._accuracy()
            made = self._record(self.measured)
            self.logbook.result(in_words(made))  # first, so that it isn't lost if recording fails
            export = self.out / "export"
            with going_on(f"{RESUME} to export it"):
                self._save(export)
                if note := record_at_start(self.settings.model, made, self.splits.spec):
                    self.logbook.say(note)
                record(export / "results.json", made)  # last, because it marks the run as finished
        self.accelerator.wait_for_everyone()
        return made

    def _cfg(self) -> dict[str, Any]:
        """Returns timm's cfg of the classifier, without that which describes the weights it started from."""
        kept = {name: value for name, value in self._kept.pretrained_cfg.items() if name not in OF_WEIGHTS}
        return kept | {"num_classes": self.classes, "label_names": class_names(self.images, self.classes)}

    def _export_best(self, folder: Path, best: dict[str, Any]) -> None:
        assert self.measured
        self._save(folder)
        with results.changing(folder / "results.json") as held:
            held.update(best=best, evaluations=[self._record(self.measured).to_dict()])

    def _save(self, folder: Path) -> None:
        """Writes the classifier in timm's format with its settings, its start and its cost."""
        self._kept.pretrained_cfg = self._cfg()
        save_pretrained(folder, self._kept)
        write_json(folder / "finetune.json", self.settings.published())
        with results.changing(folder / "results.json") as held:
            held.update(self.origin, training=cost_of(self, self.images.fingerprint))

    def try_export(self) -> None:
        try_export(self.out, self._save)

    @property
    def _protocol(self) -> str:
        """The record's protocol; each fraction of labels has its own, because a record replaces one of its protocol."""
        fraction = self.settings.data.fraction
        return "finetune" if fraction == 1 else f"finetune {fraction:g}"

    def _record(self, found: Estimate) -> Record:
        """Returns the record of the exported classifier."""
        s, images = self.settings, {"train": self.images, "test": self.test}
        settings = s.published()
        per_cent = f"{100 * s.data.fraction:g}"
        slug, name = "finetune_top1", "Fine-tuning top-1"
        if s.data.fraction != 1:
            slug, name = slugify(f"{slug} {per_cent}pct"), f"{name}, {per_cent} % of the labels"
        metrics = [Metric(slug, name, SHARE, ACCURACY, *found)]
        if isinstance(self._kept, Canonical):
            kept = share(self._outputs(Activations(self._kept)).argmax(1) == 0)
            metrics.append(Metric("finetune_identities", "Images left unturned", SHARE, "canonicalization", *kept))
        curve = [[e["epoch"], e["top1"]] for e in read(self.out / "log.jsonl") if "top1" in e]
        return Record(
            protocol=self._protocol,
            model=settings["model"],
            model_fingerprint=self.started_from,
            data=self.splits.name,
            data_fingerprint={name: source.fingerprint for name, source in images.items()},
            images={name: len(source) for name, source in images.items()},
            seed=s.seed,
            settings=settings,
            metrics=by_slug(metrics),
            details={"top-1 by epoch": curve, "test images": self.splits.test_images},
            seconds=round(self.seconds, 1),
            versions=versions(),
        )
