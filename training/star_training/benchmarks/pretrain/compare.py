"""Compares the three and the roofline: alternating rounds, then the parts and the memory of our step."""

import contextlib
import statistics
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch

from star_zoo import Policy

from ...engine.environment import peak_memory
from ...pretraining.run import Run
from .backbone_alone import VIEWS, BackboneAlone, head_multiply_adds
from .elsewhere import Elsewhere
from .memory import saved_bytes
from .ours import Ours
from .released_style import Network, ReleasedStyle
from .roofline import Roofline
from .rounds import ratio, take_turns
from .sizes import Size, recipe, write_images


def compare(name: str, size: Size, rounds: int, steps: int, precision: str, workers: int) -> dict[str, Any]:
    """Returns all measurements of a size as plain data: raw seconds by round, rates, ratios, parts, bytes."""
    with tempfile.TemporaryDirectory(prefix="star-zoo-bench-") as folder, contextlib.ExitStack() as stack:
        files = write_images(size, Path(folder) / "images")
        settings = recipe(name, size, Path(folder) / "images", workers, precision)
        run = Run(settings, Path(folder) / "run")
        device = run.accelerator.device
        ours = stack.enter_context(Ours(run))
        heads = head_multiply_adds(run.pretrainer.objective)
        # in new processes with the default allocator: `Run` changes its settings, which is part of the gain
        twin = stack.enter_context(Elsewhere(ReleasedStyle.name, _twin, size, settings.policy, files, workers, device))
        alone = stack.enter_context(Elsewhere(BackboneAlone.name, _alone, size, heads, precision, device))
        roofline = Roofline(ours, precision)
        seconds = roofline.beside(take_turns([roofline, twin, alone], rounds, steps), steps)
        return {
            "backbone": size.backbone,
            "pixels": size.pixels,
            "batch": size.batch,
            "experts": size.experts,
            "steps": steps,
            "seconds": seconds,
            "samples per second": {
                variant: statistics.median(steps * size.batch / each[variant] for each in seconds)
                for variant in seconds[0]
            },
            "share of the roofline": ratio(seconds, "roofline", ours.name),
            "times the backbone alone": ratio(seconds, alone.name, ours.name),
            "times the released style": ratio(seconds, twin.name, ours.name),
            "parts": ours.parts(steps),
            "checkpoint": ours.checkpoint() | {"every": run.recipe.run.checkpoint_every},
            "roofline": {
                "multiply-adds a sample": roofline.multiply_adds / size.batch,
                "multiply-adds per second": roofline.rates[-rounds:],  # by round
            },
            "multiply-adds per second": alone.get("rates"),
            "head multiply-adds a step": alone.get("multiply_adds"),
            "saved for backward": _saved(ours, _network(size, settings.policy, device), size.batch),
            "peak resident": peak_memory(torch.device("cpu")),
        }


def _network(size: Size, policy: Policy, device: torch.device) -> Network:
    backbone: Any = timm.create_model(size.backbone, num_classes=0)
    return Network(backbone, backbone.num_features, size.experts, policy.field_statistics).to(device)


def _twin(size: Size, policy: Policy, files: list[Path], workers: int, device: torch.device) -> ReleasedStyle:
    return ReleasedStyle(_network(size, policy, device), size, policy, files, workers)


def _alone(size: Size, heads: int, precision: str, device: torch.device) -> BackboneAlone:
    backbone: Any = timm.create_model(size.backbone, num_classes=0)
    return BackboneAlone(backbone.to(device), heads, size.batch, size.pixels, precision)


def _saved(ours: Ours, network: Network, batch: int) -> dict[str, int]:
    """Returns the bytes that heads and loss save for the backward pass, in ours and in the twin, for equal features."""
    objective, device = ours.run.pretrainer.objective, ours.run.accelerator.device
    width, fields = objective.config["num_features"], len(objective.policy.fields)
    features = list(torch.randn(VIEWS, batch, width, device=device).requires_grad_())
    params = list(torch.randn(VIEWS, batch, fields, device=device))
    there = [*objective.state_dict().values(), *network.state_dict().values()]
    return {
        ours.name: saved_bytes(lambda: ours.loss(features, params), there),
        ReleasedStyle.name: saved_bytes(lambda: network.loss(features, params[1:]), there),
    }
