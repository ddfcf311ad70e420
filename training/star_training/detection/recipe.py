"""The settings of a detection run: typed, changed by `--set path=value`, saved as JSON."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from star_catalog.names import not_found

from ..data.sources.base import name_alone
from ..models.resolve import called
from ..settings.base import Settings
from ..settings.common import AUTO, LoopConfig, check_precision, check_rules, check_seed

PRECISIONS = ("no", "bf16")  # not "fp16", which was never tried


@dataclass(frozen=True, kw_only=True)
class DetectionData:
    """The images. See `open_set` for the values of `source` and the splits."""

    source: str  # as --data
    train: str = "train"  # the split to train on
    test: str = "val"  # the split to test on


@dataclass(frozen=True, kw_only=True)
class DetectionLoop(LoopConfig):
    """As `LoopConfig`, with the intervals of runs whose checkpoints are large."""

    log_every: int = 20  # steps between entries of log.jsonl
    checkpoint_every: int = 1000  # steps between checkpoints
    keep: int = 1  # checkpoints; older ones are deleted


@dataclass(frozen=True, kw_only=True)
class DetectionRecipe(Settings):
    """All settings that determine a trained detector, apart from the weights of its backbone."""

    command: ClassVar[str] = "detect"
    name: str  # the recipe's
    model: str  # a run, a saved folder, a zoo tag, any timm name, untrained:NAME
    head: str  # "c4": a ResNet's last stage on each region; "fpn": a feature pyramid, for timm models with feature maps
    data: DetectionData
    steps: int  # of the optimiser
    milestones: tuple[int, int]  # steps at which the learning rate is divided by ten
    warmup: int  # steps of linear warm-up, from a thousandth
    batch_size: int = 16  # images in a step, over all processes
    lr: float = 0.02  # SGD's, for this batch size
    momentum: float = 0.9  # SGD's
    weight_decay: float = 1e-4  # of all parameters except those of norms
    clip: float | None = None  # largest gradient norm
    sizes: tuple[int, int, int] = (480, 800, 32)  # pixels of the shorter side in training: smallest, largest, step
    test_size: int = 800  # pixels of the shorter side in the test
    longest: int = 1333  # largest pixels of the longer side, in training and test
    anchor: int = 32  # pixels, side of the smallest anchors; there are five sizes, each twice the one before
    regions: int = 512  # per image, on which the box head is trained in a step
    norm_batches: int = 200  # batches for precise batch norm before the test; 0: none
    precision: str = AUTO  # "no" (float32), "bf16", or "auto": the fastest that computes correct gradients here
    seed: int = 0  # of the new weights, the order of images, and their views
    run: DetectionLoop = field(default_factory=DetectionLoop)

    def __post_init__(self) -> None:
        if self.head not in ("c4", "fpn"):
            raise ValueError(not_found("head", self.head, ("c4", "fpn")))
        check_precision(self.precision, PRECISIONS)
        least = {"steps": 1, "warmup": 0, "batch_size": 1, "test_size": 1, "longest": 1, "anchor": 1, "regions": 1}
        for name, value in (least | {"norm_batches": 0}).items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {value}")
        if not 1 <= self.sizes[0] <= self.sizes[1] or self.sizes[2] < 1:
            raise ValueError(f"sizes is {list(self.sizes)}; pass smallest, largest and step, e.g. [480, 800, 32]")
        first, second = self.milestones
        check_seed(self.seed)
        check_rules(
            ("lr", self.lr, self.lr >= 0, "at least 0"),
            ("momentum", self.momentum, 0 <= self.momentum < 1, "from 0 to below 1"),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0"),
            ("milestones", list(self.milestones), 0 <= first <= second, "two steps in order, e.g. [12000, 16000]"),
            ("anchor", self.anchor, self.anchor <= self.longest, f"at most longest, {self.longest} pixels"),
            ("clip", self.clip, self.clip is None or self.clip > 0, "a norm above 0, or null for none"),
        )

    def learning_rate(self, step: int) -> float:
        """Returns the learning rate at a step, counted from 0: detectron2's linear warm-up and drops to a tenth."""
        rise = 1.0 if step >= self.warmup else 0.001 + 0.999 * step / self.warmup
        return self.lr * rise * 0.1 ** sum(step >= milestone for milestone in self.milestones)

    def published(self) -> dict[str, Any]:
        """Returns `to_dict` without the folders of this machine."""
        data = replace(self.data, source=name_alone(self.data.source))
        return replace(self, model=called(self.model), data=data).to_dict()
