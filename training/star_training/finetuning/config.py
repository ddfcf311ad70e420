"""Fine-tuning settings: frozen dataclasses, changed by `--set path=value`, saved as JSON."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from ..data.sources.base import name_alone
from ..models.resolve import called
from ..settings.base import Settings
from ..settings.common import AUTO, MAX_BAD, OptimizerConfig, RunConfig, check_precision, check_rules, check_seed


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """The labelled images. See `star_training.data.open_source` for the values of `source`."""

    source: str  # as --data
    fraction: float = 1.0  # of each class's training images, at least one; the protocol uses 0.01 and 0.1
    max_bad: float = MAX_BAD  # share of each split's images that may fail to decode; more is an error


@dataclass(frozen=True, kw_only=True)
class Views:
    """Settings of the training views. Test images are preprocessed as timm evaluates the model."""

    size: int | None = None  # pixels, of training and test images; None: the size that the model was trained with
    scale: tuple[float, float] = (0.35, 1.0)  # share of the area that a random crop takes
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of the crop
    flip: float = 0.5  # probability; use 0 if mirroring changes the class
    jitter: float = 0.0  # strength of brightness, contrast and saturation; 0 for none


@dataclass(frozen=True, kw_only=True)
class FineTuneOptimizer(OptimizerConfig):
    """The optimiser by timm's name and its cosine schedule; the defaults are for convolutional networks.

    Vision transformers commonly use lr=1e-3 and a layer_decay of 0.65 to 0.75 since BEiT (arXiv 2106.08254).
    """

    name: str = "adamw"  # timm's
    lr: float = 8e-3  # of the classifier, for 256 images a step; scaled linearly with batch_size
    weight_decay: float = 0.05  # of the weights of convolutions and linear layers
    decay_norms: bool = False  # decay biases and norm weights too
    warmup_epochs: float = 2.0  # linear, from 0
    clip: float | None = 1.0  # largest gradient norm; null for none
    layer_decay: float | None = None  # learning rate relative to the next layer's; None: the same for all


@dataclass(frozen=True, kw_only=True)
class FineTune(Settings):
    """All settings that determine what a fine-tuning computes."""

    command: ClassVar[str] = "finetune"
    model: str  # the start: a run, a saved folder, a zoo tag, any timm name, untrained:NAME
    data: LabelledData
    backbone_args: dict[str, Any] = field(default_factory=dict)  # keyword arguments of timm.create_model
    views: Views = field(default_factory=Views)
    epochs: int = 30  # passes over the images
    batch_size: int = 64  # images in one step, over all processes
    mixup: float = 0.0  # alpha of mixup; 0 for none
    cutmix: float = 0.0  # alpha of CutMix; with both, each batch gets one of them
    smoothing: float = 0.1  # share of the label that is spread over all classes
    ema: float | None = None  # decay of the weight average, after a warm-up; the average is measured and exported
    canonicalize: str | None = None  # c4 or d4: a canonicalizer, learned with the task, turns the images upright
    canonicalizer: str = "direct"  # its kind: direct, optimised, features; see `star_zoo.symmetry.canonicalizer`
    prior_weight: float | None = None  # of its loss if all training images are upright; None: 100, 1 for features
    optimizer: FineTuneOptimizer = field(default_factory=FineTuneOptimizer)
    precision: str = AUTO  # "no" (float32), "bf16", "fp16", or "auto": the fastest that computes correct gradients here
    seed: int = 0  # of the classifier, the order of images, and their views
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if self.canonicalize not in (None, "c4", "d4"):
            raise ValueError(f"canonicalize is {self.canonicalize!r}; known: 'c4', 'd4', or null for none")
        if self.canonicalize == "d4" and self.views.flip:
            raise ValueError(
                f"views.flip is {self.views.flip}; with canonicalize=d4 it must be 0, because a flipped image is not "
                "upright"
            )
        share, decay = self.data.fraction, self.optimizer.layer_decay
        size = self.views.size
        check_seed(self.seed)
        check_rules(
            ("epochs", self.epochs, self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size, self.batch_size >= 2, "at least 2"),
            ("data.fraction", share, 0 < share <= 1, "a share of the labels above 0, up to 1"),
            ("mixup", self.mixup, self.mixup >= 0, "at least 0"),
            ("cutmix", self.cutmix, self.cutmix >= 0, "at least 0"),
            ("smoothing", self.smoothing, 0 <= self.smoothing < 1, "from 0 to below 1"),
            ("ema", self.ema, self.ema is None or 0 < self.ema < 1, "between 0 and 1, or null for none"),
            ("prior_weight", self.prior_weight, (self.prior_weight or 0) >= 0, "at least 0, or null for the default"),
            ("views.flip", self.views.flip, 0 <= self.views.flip <= 1, "from 0 to 1"),
            ("views.jitter", self.views.jitter, 0 <= self.views.jitter <= 1, "from 0 to 1"),
            ("optimizer.layer_decay", decay, decay is None or 0 < decay <= 1, "above 0, up to 1, or null for none"),
            ("views.size", size, size is None or size >= 1, "at least 1 pixel, or null for the model's own"),
        )

    def published(self) -> dict[str, Any]:
        """Returns `to_dict` without the folders of this machine."""
        data = replace(self.data, source=name_alone(self.data.source))
        return replace(self, model=called(self.model), data=data).to_dict()
