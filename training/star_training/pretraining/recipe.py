"""Pretraining recipes: typed settings, built by a function, changed by `--set path=value`, saved as JSON."""

import contextlib
import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

from star_catalog import zoo
from star_catalog.names import not_found
from star_zoo import hub, objectives, own_networks
from star_zoo.augmentations import Augmentation, Policy
from star_zoo.augmentations.policy import KNOWN, augmentation
from star_zoo.augmentations.presets import PRESETS, preset

from ..data.sources.base import name_alone
from ..models.names import expanded, names_path
from ..models.resolve import called, label
from ..settings.base import Settings, build, kinds, typed
from ..settings.common import AUTO, MAX_BAD, OptimizerConfig, RunConfig, check_precision, check_seed, check_switch

_CHECKED = {bool, int, float, str, list, dict, Sequence, Mapping, NoneType}  # types whose values JSON holds as they are


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images. See `star_training.data.open_source` for the values of `source`, `open_stream` for "stream:"."""

    source: str  # as --data
    limit: int | None = None  # use only this many images, evenly spaced over the set
    max_bad: float = MAX_BAD  # share of files that may fail to decode; more is an error
    bank: str = "train"  # the split whose labels online evaluation learns from
    hold_out: float = 0.0  # share held out for online evaluation if a labelled set has no test split
    images: int | None = None  # images per epoch of a stream, which can't be counted
    lanes: int = 8  # shards of a stream that are read in parallel; batch_size must be a multiple
    buffer: int = 256  # size of each lane's shuffle buffer, in encoded images

    def __post_init__(self) -> None:
        for name in ("images", "lanes", "buffer"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"data.{name} is {value}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """All settings that determine what a pretraining run computes."""

    command: typing.ClassVar[str] = "pretrain"
    name: str  # the recipe's
    backbone: str  # any timm model
    policy: Policy
    data: DataConfig
    epochs: int  # passes over the images
    backbone_args: dict[str, Any] = field(default_factory=dict)  # keyword arguments of timm.create_model
    backbone_module: str = ""  # of a backbone of your own: the dotted path of the module that registers it with timm
    objective: str = "star"  # by its name in star_zoo.objectives, or the dotted path of a module
    objective_args: dict[str, Any] = field(default_factory=dict)  # the objective's settings
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    batch_size: int = 256  # images in one loss, over all processes
    accumulate: int = 1  # losses whose gradients are accumulated for one step
    precision: str = AUTO  # "no" (float32), "bf16", "fp16", or "auto": the fastest that computes correct gradients here
    channels_last: bool | str = AUTO  # memory layout; "auto": true unless a convolution fails in it on this CPU
    grad_checkpointing: bool = False  # recompute activations in the backward pass, which saves memory
    compile: bool = False  # torch.compile of the whole training forward
    init_from: str | None = None  # a run, a saved folder, "timm:NAME" or a zoo tag to start from
    freeze_norms: bool = False  # the backbone's batch norms normalise by the start's statistics and keep them
    seed: int = 0  # of initial weights, the order of images, and their views
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        check_precision(self.precision)
        check_seed(self.seed)
        check_switch("channels_last", self.channels_last)
        for name, least in (("epochs", 1), ("batch_size", 2), ("accumulate", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.data.hold_out < 1:
            raise ValueError(f"data.hold_out is {self.data.hold_out}; it must be a share of the images, from 0 to 1")
        channels = self.backbone_args.get("in_chans", 3)
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"backbone_args.in_chans is {channels!r}; it must be a number of channels, at least 1")
        object.__setattr__(self, "policy", self.policy.of_channels(channels))

    @property
    def channels(self) -> int:
        """The number of channels of the images."""
        return self.backbone_args.get("in_chans", 3)

    def check_start(self) -> None:
        """Raises ValueError if the statistics of a start are to be kept, but there is no start."""
        if self.freeze_norms and self.init_from is None:
            raise ValueError("freeze_norms is true, but there is no start whose statistics to keep; pass --init-from")

    def completed(self, before: "Recipe") -> "Recipe":
        if self.policy.mean or self.channels != before.channels:
            return self
        return dataclasses.replace(
            self, policy=dataclasses.replace(self.policy, mean=before.policy.mean, std=before.policy.std)
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON; `from_dict` is the inverse."""
        return json.loads(json.dumps({**dataclasses.asdict(self), "policy": self.policy.to_dict()}))

    def compared(self) -> dict[str, Any]:
        """Returns the settings that a resumed run must keep; the folder of its start may have been moved."""
        return super().compared() | {"init_from": self.init_from and label(called(self.init_from))}

    def published(self) -> dict[str, Any]:
        """Returns `to_dict` without the folders of this machine: only the names of images and models remain."""
        made = self.to_dict()
        made["data"]["source"] = name_alone(self.data.source)
        made["init_from"] = self.init_from and called(self.init_from)
        made["objective_args"] = {
            name: called(value) if isinstance(value, str) and names_path(value) else value
            for name, value in made["objective_args"].items()
        }
        return made

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Recipe":
        """Builds a recipe from `to_dict`'s data. Raises ValueError with the wrong field and the known ones."""
        return build(cls, {k: _policy(v) if k == "policy" else v for k, v in data.items()}, "")

    @classmethod
    def resolve(cls, path: str, sign: str, value: Any, data: dict[str, Any]) -> tuple[str, Any]:
        """Returns path and data of a change, and those of the whole policy for `policy=NAME` and changes of its list.

        NAME is a preset, made at the view size of the policy so far, or a saved model, whose policy replaces all of
        it. `policy.augmentations+=NAME`, or a JSON object with a name, adds an augmentation at the end, or in place of
        one of its name; `policy.augmentations-=NAME` removes it, if it is there. So the same changes a second time
        change nothing. Raises ValueError as `preset` does, and for an unknown augmentation or field.
        """
        if path == "policy.augmentations" and sign:
            policy = _policy(data["policy"])
            made = policy.including(_added(value)) if sign == "+" else policy.without(_kind(value))
        elif path == "policy" and not sign and isinstance(value, str):
            made = _named_policy(value, _policy(data["policy"]))
        else:
            return super().resolve(path, sign, value, data)
        return "policy", json.loads(json.dumps(made.to_dict()))

    def check(self) -> None:
        """Raises ValueError for a backbone or an objective that is unknown, and for wrong settings of the objective."""
        self.check_objective()
        self.check_backbone()

    def check_backbone(self) -> None:
        """Raises ValueError for a backbone that neither timm has nor `backbone_module` registers."""
        self.registered()
        try:
            hub.check_name(self.backbone)
        except ValueError as error:
            if own_networks.module_of(self.backbone):
                raise  # registered, but under a name of timm's
            way_out = "for one of your own, name the module that registers it: --set backbone_module=MODULE"
            raise ValueError(f"{error}; {way_out}") from error

    def registered(self) -> "Recipe":
        """Returns the recipe with the module that has registered its backbone, if that is a user's.

        A module that the recipe names is imported first. Raises ValueError if it can't be, or lacks the backbone.
        """
        if self.backbone_module:
            own_networks.import_module(self.backbone_module, self.backbone)
            return self
        return dataclasses.replace(self, backbone_module=own_networks.module_of(self.backbone))

    def check_objective(self) -> None:
        """Raises ValueError for settings of the objective that are unknown, or not of the types that it declares."""
        objectives.check_settings(self.objective, self.objective_args)
        hints = objectives.hints(self.objective)
        for name, value in self.objective_args.items():
            if name in hints and set(kinds(hints[name])) <= _CHECKED:
                typed(value, hints[name], f"objective_args.{name}")

    def with_objective(self, name: str) -> "Recipe":
        """Returns the recipe for another objective, keeping the settings that both objectives have."""
        known = objectives.settings(name)
        kept = {k: v for k, v in self.objective_args.items() if k in known}
        return dataclasses.replace(self, objective=name, objective_args=kept)


def _named_policy(name: str, before: Policy) -> Policy:
    """Returns the policy that a name stands for: that of a preset, or of a model that was saved with heads."""
    if name not in PRESETS and (names_path(name) or zoo.is_path(name) or name.startswith(("star_", zoo.HUB_PREFIX))):
        return hub.load_policy(expanded(name))
    try:
        return preset(name, before)
    except ValueError as error:
        if name in PRESETS:
            raise
        raise ValueError(
            f"{error}; a model saved with heads is possible, too: a run, a saved folder, a star_* tag, "
            "or hf-hub:OWNER/NAME"
        ) from error


def _policy(data: Any) -> Policy:
    """Returns a policy from its data, after checking each value against its field's type."""
    with contextlib.suppress(KeyError, TypeError):  # not a policy at all: from_dict raises
        for number, settings in enumerate(data["augmentations"]):
            _check_types(settings, f"policy.augmentations.{number}")
        for name in ("mean", "std"):
            if data[name] != AUTO:
                typed(data[name], tuple[float, ...], f"policy.{name}")
    return Policy.from_dict(data)


def _check_types(settings: dict[str, Any], path: str) -> None:
    """Raises ValueError for a setting of an augmentation that has the wrong type."""
    hints = typing.get_type_hints(KNOWN[settings["name"]])
    for name in settings.keys() & hints.keys():
        typed(settings[name], hints[name], f"{path}.{name}")


def _added(value: Any) -> Augmentation:
    """Returns the augmentation that a name, or an object with a name and settings, stands for."""
    settings = {"name": value} if isinstance(value, str) else value
    if not isinstance(settings, dict) or "name" not in settings:
        example = 'policy.augmentations+=Solarize or policy.augmentations+={"name": "Solarize", "p": 0.5}'
        raise ValueError(f"--set policy.augmentations+={json.dumps(value)} has no name; write e.g. {example}")
    _check_types(settings, f"policy.augmentations.{_kind(settings['name']).__name__}")
    return augmentation(settings)


def _kind(name: Any) -> type[Augmentation]:
    """Returns the class of an augmentation by its name. Raises ValueError for an unknown one, with the known names."""
    if not isinstance(name, str) or name not in KNOWN:
        raise ValueError(not_found("augmentation", str(name), KNOWN))
    return KNOWN[name]
