"""The three side by side: rounds in which each takes its turn, then parts and memory of a step of ours."""

import contextlib
import statistics
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch

from ...pretrain import Run
from .limit import VIEWS, Limit, head_multiply_adds
from .memory import peak_resident, saved_bytes
from .ours import Ours
from .released_style import Network, ReleasedStyle
from .rounds import ratio, take_turns
from .sizes import Size, recipe, write_images


def compare(name: str, size: Size, rounds: int, steps: int, precision: str, workers: int) -> dict[str, Any]:
    """Everything that is measured of a size, as plain data: raw seconds by round, rates, ratios, parts, bytes."""
    with tempfile.TemporaryDirectory(prefix="star-zoo-bench-") as folder, contextlib.ExitStack() as stack:
        files = write_images(size, Path(folder) / "images")
        run = Run(recipe(name, size, Path(folder) / "images", workers, precision), Path(folder) / "run")
        ours = stack.enter_context(Ours(run))
        twin = _twin(run, size, files, workers)
        limit = _limit(run, size, precision)
        seconds = take_turns([ours, twin, limit], rounds, steps)
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
            "share of the limit": ratio(seconds, limit.name, ours.name),
            "times the released style": ratio(seconds, twin.name, ours.name),
            "parts": ours.parts(steps),
            "checkpoint": ours.checkpoint() | {"every": run.recipe.run.checkpoint_every},
            "multiply-adds per second": limit.rates,
            "head multiply-adds a step": limit.multiply_adds,
            "saved for backward": _saved(ours, twin, size.batch),
            "peak resident": peak_resident(),
        }


def _twin(run: Run, size: Size, files: list[Path], workers: int) -> ReleasedStyle:
    device, policy = run.accelerator.device, run.recipe.policy
    backbone: Any = timm.create_model(size.backbone, num_classes=0)
    network = Network(backbone, backbone.num_features, size.experts, policy.field_statistics).to(device)
    return ReleasedStyle(network, size, policy, files, workers)


def _limit(run: Run, size: Size, precision: str) -> Limit:
    backbone: Any = timm.create_model(size.backbone, num_classes=0)
    multiply_adds = head_multiply_adds(run.pretrainer.objective)
    return Limit(backbone.to(run.accelerator.device), multiply_adds, size.batch, size.pixels, precision)


def _saved(ours: Ours, twin: ReleasedStyle, batch: int) -> dict[str, int]:
    """What heads and loss keep for the backward pass, in ours and in the twin, from the same features on."""
    objective, network = ours.run.pretrainer.objective, twin.network
    width, fields = objective.config["num_features"], len(objective.policy.fields)
    features = list(torch.randn(VIEWS, batch, width, device=twin.device).requires_grad_())
    params = list(torch.randn(VIEWS, batch, fields, device=twin.device))
    there = [*objective.state_dict().values(), *network.state_dict().values()]
    return {
        ours.name: saved_bytes(lambda: ours.loss(features, params), there),
        twin.name: saved_bytes(lambda: network.loss(features, params[1:]), there),
    }
