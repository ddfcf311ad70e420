"""Converts the authors' released checkpoints to saved folders, and back."""

import dataclasses
import io
from pathlib import Path

import torch

from star_catalog.files import replacing
from star_catalog.reading import refusing
from star_catalog.zoo import checksum
from star_zoo import load_objective, objectives, released, save_pretrained
from star_zoo.weights_file import read_tensors

from ..pretraining.module import build_backbone
from ..pretraining.recipe import Recipe
from . import card


def convert(checkpoint: Path, recipe: Recipe, out: Path) -> None:
    """Writes a released `ckpt-N.pth` as a folder for timm and `load_objective`.

    The recipe supplies the architecture, the policy and its statistics, which the file lacks. The number of experts
    is read from the tensors. Raises ValueError if a tensor is missing, unknown or of the wrong shape.
    """
    tensors = released.read_checkpoint(checkpoint)
    backbone = build_backbone(recipe)
    with refusing(f"{checkpoint} does not fit the recipe {recipe.name}"):
        backbone_state, objective_state = released.from_released(tensors)
        num_experts = len(objective_state["heads.experts.weight2"])
        objective = objectives.build("star", backbone.head_hidden_size, recipe.policy, num_experts=num_experts)
        statistics = {k: v for k, v in objective.state_dict().items() if ".standardize." in k}
        backbone.load_state_dict(backbone_state)
        objective.load_state_dict(objective_state | statistics)
    released_from = {"file": checkpoint.name, "sha256": checksum(checkpoint, 64)}
    recipe = dataclasses.replace(recipe, objective_args={"num_experts": num_experts})
    save_pretrained(
        out,
        backbone,
        objective,
        model_args=recipe.backbone_args,
        recipe=recipe.published(),
        results={"released": released_from},
    )
    card.write(out)


def convert_back(folder: Path, out: Path) -> None:
    """Writes a saved folder of the `star` objective as a released checkpoint, without optimiser state."""
    objective = load_objective(folder)
    if objective.config["objective"] != "star":
        raise ValueError(
            f"{folder} holds the objective {objective.config['objective']}; only star has a released format"
        )
    backbone = read_tensors(folder / "model.safetensors")
    file = io.BytesIO()  # because torch reports a full disk in several lines, without naming it
    torch.save(released.to_released(backbone, objective.state_dict()), file)
    with replacing(out) as part:
        part.write_bytes(file.getbuffer())
