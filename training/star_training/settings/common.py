"""The parts that the settings of several trainings have in common: optimiser, intervals of the loop, what is "auto"."""

from collections.abc import Sequence
from dataclasses import dataclass

AUTO = "auto"  # a value that the run chooses on its machine
PRECISIONS = ("no", "bf16", "fp16")  # "no" is float32
# for the help of commands
PRECISION_HELP = "precision=auto (the fastest that is correct on this machine), no (float32), bf16 or fp16"
EVALUATION_WORKERS = 2  # processes that load images where nothing is trained
MAX_BAD = 0.01  # share of a split's images that may fail to decode


def check_precision(precision: str, known: Sequence[str] = PRECISIONS) -> None:
    """Raises ValueError for a precision that is neither "auto" nor known."""
    if precision not in (AUTO, *known):
        choices = ", ".join(map(repr, (AUTO, *known)))
        raise ValueError(f"precision is {precision!r}; known: {choices}")


def precision_name(precision: str) -> str:
    """Returns the name of a precision in messages."""
    return "float32" if precision == "no" else precision


def check_switch(name: str, value: bool | str) -> None:
    """Raises ValueError for a value that is neither "auto" nor true or false."""
    if isinstance(value, str) and value != AUTO:
        raise ValueError(f"{name} is {value!r}; known: {AUTO!r}, true, false")


def check_seed(seed: int) -> None:
    """Raises ValueError for a seed that torch's generators don't take."""
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed is {seed}; it must be from -2**63 to 2**63 - 1")


def check_rules(*rules: tuple[str, object, bool, str]) -> None:
    """Raises ValueError for the first rule that doesn't hold; each is a name, a value, whether it holds, and itself."""
    for name, given, holds, rule in rules:
        if not holds:
            raise ValueError(f"{name} is {given}; it must be {rule}")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimiser by timm's name (`timm.optim.list_optimizers()`) and its cosine schedule."""

    name: str = "momentum"  # SGD with momentum, not Nesterov's, as in the released code
    lr: float = 0.03  # for 256 images a step; scaled linearly with batch_size * accumulate
    weight_decay: float = 5e-4  # as in the released scripts
    decay_norms: bool = True  # decay biases and norm weights too, as the released code does
    momentum: float = 0.9  # of SGD; not used by optimisers without one
    warmup_epochs: float = 0.0  # linear, from 0
    clip: float | None = None  # largest gradient norm

    def __post_init__(self) -> None:
        check_rules(
            ("optimizer.lr", self.lr, self.lr >= 0, "at least 0"),
            ("optimizer.weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0"),
            ("optimizer.momentum", self.momentum, 0 <= self.momentum < 1, "from 0 to below 1"),
            ("optimizer.warmup_epochs", self.warmup_epochs, self.warmup_epochs >= 0, "at least 0"),
            ("optimizer.clip", self.clip, self.clip is None or self.clip > 0, "a norm above 0, or null for none"),
        )


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Settings that don't change the weights and may differ on resume."""

    workers: int | str = AUTO  # processes that load images, "auto": by the cores; 0 loads them in the main process
    log_every: int = 10  # steps between entries of log.jsonl
    checkpoint_every: int = 200  # steps between checkpoints
    keep: int = 2  # checkpoints; older ones are deleted

    def __post_init__(self) -> None:
        if isinstance(self.workers, str) and self.workers != AUTO:
            raise ValueError(f"run.workers is {self.workers!r}; pass a number of processes, or {AUTO!r}")
        self._check_least(log_every=1, checkpoint_every=1, keep=1, **({} if self.workers == AUTO else {"workers": 0}))

    def _check_least(self, **least: int) -> None:
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"run.{name} is {getattr(self, name)}; it must be at least {value}")


@dataclass(frozen=True, kw_only=True)
class RunConfig(LoopConfig):
    """As `LoopConfig`, for a training that is evaluated on the way."""

    eval_every: int = 1  # epochs between online evaluations; 0: never
    keep_best: str | None = None  # metric of online evaluation, or "loss", whose best weights are kept in export_best/

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_least(eval_every=0)
        if self.keep_best is not None and not self.eval_every:
            raise ValueError(
                f"run.keep_best is {self.keep_best!r}, but nothing is evaluated on the way, because run.eval_every is "
                "0; set it to 1 or more"
            )
