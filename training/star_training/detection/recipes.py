"""Detection recipes, one function each that returns a DetectionRecipe; `star-zoo detect MODEL --recipe NAME` runs it.

Each docstring states source and cost. To add a recipe, add a public function here.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from star_zoo.names import not_found

from ..data.sources.base import name_alone
from ..models.resolve import called
from ..settings import registry
from ..settings.base import Settings
from ..settings.common import AUTO, LoopConfig, check_precision

PRECISIONS = ("no", "bf16")  # not "fp16", which was never tried


@dataclass(frozen=True, kw_only=True)
class DetectionData:
    """The images. See `open_set` for the values of `source` and the splits."""

    source: str
    train: str = "train"
    test: str = "val"


@dataclass(frozen=True, kw_only=True)
class DetectionLoop(LoopConfig):
    """As `LoopConfig`, with the intervals of runs whose checkpoints are large."""

    log_every: int = 20  # steps
    checkpoint_every: int = 1000  # steps
    keep: int = 1  # checkpoints; older ones are deleted


@dataclass(frozen=True, kw_only=True)
class DetectionRecipe(Settings):
    """All settings that determine a trained detector, apart from the weights of its backbone."""

    name: str
    model: str  # a run, a saved folder, a zoo tag, any timm name, untrained:NAME
    head: str  # "c4": a ResNet's last stage on each region; "fpn": a feature pyramid, for timm models with feature maps
    data: DetectionData
    steps: int
    milestones: tuple[int, int]  # steps at which the learning rate is divided by ten
    warmup: int  # steps of linear warm-up, from a thousandth
    batch_size: int = 16  # images in a step, over all processes
    lr: float = 0.02  # SGD's, for this batch size
    momentum: float = 0.9
    weight_decay: float = 1e-4  # of all parameters except those of norms
    clip: float | None = None  # largest gradient norm
    sizes: tuple[int, int, int] = (480, 800, 32)  # pixels of the shorter side in training: smallest, largest, step
    test_size: int = 800  # pixels of the shorter side in the test
    longest: int = 1333  # largest pixels of the longer side, in training and test
    anchor: int = 32  # pixels, side of the smallest anchors; there are five sizes, each twice the one before
    regions: int = 512  # per image, on which the box head is trained in a step
    norm_batches: int = 200  # batches for precise batch norm before the test; 0: none
    precision: str = AUTO  # "no" (float32), "bf16", or "auto": the fastest that computes correct gradients here
    seed: int = 0
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
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip is {self.clip}; pass a norm above 0, or null for none")

    def learning_rate(self, step: int) -> float:
        """Returns the learning rate at a step, counted from 0: detectron2's linear warm-up and drops to a tenth."""
        rise = 1.0 if step >= self.warmup else 0.001 + 0.999 * step / self.warmup
        return self.lr * rise * 0.1 ** sum(step >= milestone for milestone in self.milestones)

    def published(self) -> dict[str, Any]:
        """Returns `to_dict` without the folders of this machine."""
        data = replace(self.data, source=name_alone(self.data.source))
        return replace(self, model=called(self.model), data=data).to_dict()


def coco256(model: str) -> DetectionRecipe:
    """Our smoke test on a CPU, 128 COCO photos at 160 px. It tests that everything works, not how good a model is.

    In bfloat16, where the CPU supports it, it takes 0.6 of the time.
    """
    return DetectionRecipe(
        name="coco256",
        model=model,
        head="fpn",
        data=DetectionData(source="coco256_det.parquet"),
        steps=300,
        milestones=(200, 270),
        warmup=50,
        batch_size=4,
        clip=10.0,
        sizes=(128, 192, 32),
        test_size=160,
        longest=256,
        anchor=8,
        regions=64,
        norm_batches=20,
        run=DetectionLoop(workers=0, checkpoint_every=100),
    )


def voc0712_c4(model: str) -> DetectionRecipe:
    """The paper's recipe: Faster R-CNN C4 on VOC07+12 trainval, tested on VOC07. Not run by us.

    `data.source` is a VOCdevkit folder with VOC2007 and VOC2012. Source: MoCo's config
    (detection/configs/pascal_voc_R_50_C4_24k_moco.yaml), which AugSelf's and STL's protocols are assumed to follow.
    Cost: 24,000 steps of 16 images of about 640 x 850 pixels; MoCo uses 8 GPUs with 2 images each. torchvision differs
    from detectron2: regression losses are smooth L1 with a quadratic part below 1/9 instead of L1, regions are pooled
    without the half-pixel shift, and batches aren't grouped by aspect ratio.
    """
    return DetectionRecipe(
        name="voc0712_c4",
        model=model,
        head="c4",
        data=DetectionData(source="VOCdevkit", train="VOC2007/trainval+VOC2012/trainval", test="VOC2007/test"),
        steps=24_000,
        milestones=(18_000, 22_000),
        warmup=100,
        precision="no",  # as MoCo's config
    )


def known() -> dict[str, str]:
    """Returns the names of all recipes, each with the first line of its docstring."""
    return registry.known(__name__)


def find(name: str, model: str) -> DetectionRecipe:
    """Returns the recipe of that name for a model. Raises ValueError for an unknown name, listing the known ones."""
    return registry.find(__name__, "recipe", name)(model)
