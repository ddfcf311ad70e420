"""What a run exports: plain timm loads it, its loss is the run's, and another run can start from it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from runs import assert_equal, command, exported, plain, tiny, tiny_with
from star_training import recipes
from star_training.cli.main import main
from star_training.evaluation.frozen_model import load
from star_training.models.lineage import start_of
from star_training.models.resolve import model_folder
from star_training.pretraining.module import Pretrainer, build, check_backbone
from star_training.pretraining.recipe import Recipe
from star_training.pretraining.run import Run
from star_training.settings.base import override
from star_zoo import Batch, load_objective, objectives, save_pretrained

TAG = "star_resnet10t.cifar10"
QUIET = ("run.eval_every=0", "epochs=1", "data.limit=16")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    Run(tiny(*QUIET), out).train()
    return out


def starting_from(name: object, *settings: str, objective: str = "star") -> Recipe:
    return tiny(f"init_from={name}", *settings).with_objective(objective)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


# The export


def _seeded(pretrainer: Pretrainer, batch: Batch) -> dict[str, torch.Tensor]:
    """The terms, with the same random numbers every time."""
    torch.manual_seed(0)
    return pretrainer(batch)


@pytest.mark.parametrize("name", objectives.known())
def test_the_exported_parts_compute_the_loss_of_the_run(tmp_path: Path, name: str):
    recipe = tiny_with(name, *QUIET, "data.limit=8")
    run = Run(recipe, tmp_path)
    run.train()
    backbone = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True)
    objective = load_objective(tmp_path / "export")
    assert objective.policy == run.pretrainer.objective.policy
    again = Pretrainer(backbone, objective)
    objective.attach(again.encoder)
    whole, published = run.pretrainer.objective.state_dict(), objective.published()
    objective.load_state_dict({n: t for n, t in whole.items() if n not in published}, strict=False)
    count = len(objective.plan(1, 1, torch.Generator()))
    views = [torch.rand(8, 4, 1, 1) + torch.tensor([2.0, 0.1, 0.25, 0.4])[:, None, None]] * count  # spirographs
    params = torch.stack([objective.plan(1, 1, torch.Generator().manual_seed(k)) for k in range(8)]).unbind(1)
    batch = Batch(views, list(params), torch.arange(8), torch.ones(8, 2, dtype=torch.int64), torch.rand(8, 4))
    for training in (False, True):
        expected, found = (_seeded(m.train(training), batch) for m in (run.pretrainer, again))
        assert found.keys() == expected.keys()
        for term in found:
            torch.testing.assert_close(found[term], expected[term], rtol=1e-5, atol=1e-5)


def test_plain_timm_loads_it_without_star_zoo(finished: Path, tmp_path: Path):
    code = f"""
import sys, timm, torch
model = timm.create_model("local-dir:{finished / "export"}", pretrained=True).eval()
images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
with torch.no_grad():
    torch.save(model(images), "{tmp_path / "features"}")
assert not any(name.split(".")[0] in ("star_zoo", "star_training") for name in sys.modules)
assert model.pretrained_cfg["input_size"] == (3, 32, 32) and model.num_classes == 0
"""
    plain(code, cwd=tmp_path)
    module, _ = build(starting_from(finished))
    images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    with torch.no_grad():
        expected = module.backbone.eval()(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(torch.load(tmp_path / "features"), expected, rtol=1e-4, atol=1e-5)


def test_a_transformer_is_exported_at_the_size_of_its_views(tmp_path: Path):
    Run(tiny(*QUIET, "backbone=test_vit"), tmp_path).train()
    model = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True)
    assert model.pretrained_cfg["input_size"] == (3, 32, 32) and model.patch_embed.img_size == (32, 32)
    assert_equal(state(model), load_file(tmp_path / "export" / "model.safetensors"))


# Starting from it


@pytest.mark.parametrize("folder", ["", "export"])
def test_a_run_and_its_export_give_backbone_and_heads(finished: Path, folder: str):
    module, notes = build(starting_from(finished / folder))
    assert notes == [f"backbone from {finished / folder}", f"heads from {finished / folder}"]
    parts = {"model": state(module.backbone), "heads": state(module.objective)}
    assert_equal({f"{part}:{k}": v for part, tensors in parts.items() for k, v in tensors.items()}, exported(finished))


@pytest.mark.parametrize(
    ("settings", "objective", "note"),
    [
        (
            (),
            "simclr",
            "fresh heads: those of {} are of star, this run's of simclr; --objective star keeps them",
        ),
        (
            ("objective_args.num_experts=3",),
            "star",
            "fresh heads, because heads.experts.weight2 is [2, 16, 16], needs [3, 16, 16]; "
            "--set objective_args.num_experts=2 keeps them",
        ),
        (
            ('policy.augmentations=[{"name": "Crop", "size": 32}]',),
            "star",
            "fresh heads, because the parameters of the augmentations differ: only this run has top, left, "
            "height, width and only {0} has h, rback, gfore, gback, bfore, bback; --set policy={0} keeps them",
        ),
    ],
)
def test_heads_that_do_not_fit_start_afresh_with_a_note(finished: Path, settings, objective: str, note: str):
    torch.manual_seed(5)
    module, notes = build(starting_from(finished, *settings, objective=objective))
    assert notes[1] == note.format(finished)
    assert_equal(state(module.backbone), load_file(finished / "export" / "model.safetensors"))
    torch.manual_seed(5)
    fresh, _ = build(tiny(*settings).with_objective(objective))
    assert module.objective.state_dict().keys() == fresh.objective.state_dict().keys()
    saved = load_file(finished / "export" / "heads.safetensors")
    shared = [
        k for k, v in module.objective.state_dict().items() if k in saved and v.is_floating_point() and v.ndim > 1
    ]
    assert not any(torch.equal(module.objective.state_dict()[k], saved[k]) for k in shared)


def test_a_folder_without_heads_gives_the_backbone(tmp_path: Path):
    backbone = timm.create_model("test_resnet", num_classes=0)
    save_pretrained(tmp_path, backbone)
    module, notes = build(starting_from(tmp_path))
    assert notes[0] == f"backbone from {tmp_path}"
    assert_equal(state(module.backbone), state(backbone))


def test_other_pixel_statistics_than_those_of_a_start_without_heads_are_noted(tmp_path: Path):
    save_pretrained(tmp_path, timm.create_model("test_resnet", num_classes=0))  # mean and std are 0.5
    mean = "policy.mean=[0.5, 0.5, 0.5]"
    _, notes = build(starting_from(tmp_path, mean, "policy.std=[0.25, 0.5, 0.5]"))
    assert notes[1:] == [
        f"other pixel statistics than those of {tmp_path}: std [0.25, 0.5, 0.5] (there [0.5, 0.5, 0.5]); "
        "--set 'policy.std=[0.5, 0.5, 0.5]' takes those"
    ]
    _, notes = build(starting_from(tmp_path, mean, "policy.std=[0.5, 0.5, 0.5]"))
    assert notes == [f"backbone from {tmp_path}"]


def test_a_continued_run_starts_where_the_other_ended(finished: Path, tmp_path: Path, capsys):
    assert main(command(tmp_path / "next", "--init-from", str(finished), settings=QUIET)) == 0
    printed = capsys.readouterr().out
    assert f"backbone from {finished}" in printed and f"heads from {finished}" in printed
    before, after = exported(finished), exported(tmp_path / "next")
    assert before.keys() == after.keys()
    assert not torch.equal(before["heads:heads.router.linear.weight"], after["heads:heads.router.linear.weight"])
    recipe = json.loads((tmp_path / "next" / "recipe.json").read_text())
    assert recipe["init_from"] == str(finished)


def test_a_backbone_that_does_not_fit_is_refused(finished: Path):
    """Before the images are read, from shapes alone."""
    line = f"'{finished}' holds a test_resnet, the recipe's backbone is test_convnext; pass --set backbone=test_resnet"
    with pytest.raises(ValueError, match=re.escape(line)):
        check_backbone(starting_from(finished, "backbone=test_convnext"))
    star = starting_from("star_resnet10t.cifar10", "backbone=star_resnet18")
    with pytest.raises(ValueError, match=r"holds a star_resnet10t, the .* is star_resnet18; pass --set backbone=s"):
        check_backbone(star)


def test_a_backbone_with_other_arguments_is_refused(finished: Path, tmp_path: Path):
    arguments = {"channels": [16, 32, 48, 64]}
    backbone = timm.create_model("test_resnet", num_classes=0, **arguments)
    save_pretrained(tmp_path, backbone, model_args=arguments)
    with pytest.raises(ValueError, match=r"layer.*\[.*\], needs \[.*must be those of the start: .*\[16, 32, 48, 64\]"):
        check_backbone(starting_from(tmp_path))
    with pytest.raises(ValueError, match=r"layer.*\[.*\], needs \[.*must be those of the start: \{"):
        build(starting_from(finished, "backbone_args.channels=[16, 32, 48, 64]"))


def test_with_the_policy_of_the_start_its_heads_are_kept():
    settings = ("backbone=star_resnet10t", "policy.augmentations.0.size=32")
    recipe = override(recipes.find("folder"), [f"init_from={TAG}", f"policy={TAG}", *settings])
    _, notes = build(recipe)
    assert notes[1:] == [
        f"heads from {TAG}",
        f"other views than those of {TAG}: pixels 32 (there 48); --set policy={TAG} takes those",
    ]


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no exported model; pass a finished run or a folder with a config.json"):
        build(starting_from(tmp_path))


def test_a_damaged_export_is_refused(finished: Path, tmp_path: Path):
    for path in (finished / "export").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="can't be loaded"):
        build(starting_from(tmp_path))


@pytest.mark.parametrize(
    "name", ["timm:nothing", "no_such_folder/x", "star_resnet18.stl10", "timm:test_resnet.nothing"]
)
def test_a_name_that_cannot_be_had_is_refused_in_one_line(name: str, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = f"'{name}' doesn't exist" if "/" in name else f"--init-from '{name}' can't be loaded"
    with pytest.raises(ValueError, match=message) as caught:
        build(starting_from(name, f"backbone={name.partition('.')[0]}" if name.startswith("star_") else "seed=0"))
    assert "\n" not in str(caught.value)
    assert ("or pass pretrained=False." in str(caught.value)) == name.startswith("star_")  # the end of a long message


def local(monkeypatch, path: Path) -> None:
    """timm takes the weights of every model from a file instead of the network."""
    original = timm.create_model

    def create_model(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained:
            kwargs["pretrained_cfg_overlay"] = kwargs.get("pretrained_cfg_overlay", {}) | {"file": str(path)}
        return original(name, pretrained=pretrained, **kwargs)

    monkeypatch.setattr(timm, "create_model", create_model)


def test_timm_s_own_weights_are_a_start(tmp_path: Path, monkeypatch):
    pretrained = timm.create_model("test_resnet")  # with its classifier
    torch.save(pretrained.state_dict(), tmp_path / "weights.pth")
    local(monkeypatch, tmp_path / "weights.pth")
    module, notes = build(starting_from("timm:test_resnet"))
    assert notes[0] == "backbone from timm:test_resnet"
    assert notes[1].startswith("other pixel statistics than those of timm:test_resnet: mean ")
    expected = {k: v for k, v in state(pretrained).items() if not k.startswith("fc.")}
    assert_equal(state(module.backbone), expected)


def test_a_transformer_starts_from_weights_for_another_size(tmp_path: Path, monkeypatch):
    pretrained = timm.create_model("test_vit")
    torch.save(pretrained.state_dict(), tmp_path / "weights.pth")
    local(monkeypatch, tmp_path / "weights.pth")
    module, _ = build(starting_from("timm:test_vit", "backbone=test_vit", "backbone_args.drop_path_rate=0.1"))
    assert module.backbone.pos_embed.shape == (1, 1 + 4, 64) != pretrained.pos_embed.shape  # resampled to 2 x 2
    assert torch.equal(module.backbone.blocks[0].attn.qkv.weight, pretrained.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize("folder", ["", "local-dir:"])
def test_what_is_a_folder_is_no_name(finished: Path, folder: str):
    assert model_folder(f"{folder}{finished}") == model_folder(f"{folder}{finished / 'export'}") == finished / "export"
    assert model_folder("timm:resnet18") is None and model_folder("resnet18") is None


def test_a_run_records_its_start(finished: Path, tmp_path: Path):
    """The whole chain, from the files beside the weights; of weights that tell nothing, nothing."""
    first, second = tmp_path / "first", tmp_path / "second"
    for start, out in ((finished, first), (first, second)):
        Run(tiny(*QUIET, f"init_from={start}"), out).train()
    saved = [json.loads((out / "export" / "results.json").read_text()) for out in (finished, first, second)]
    recipe = json.loads((finished / "export" / "recipe.json").read_text())
    assert "start" not in saved[0]
    weights = load(str(finished)).fingerprint
    assert saved[1]["pretrained"] == {"start": {"name": finished.name, "license": None, "fingerprint": weights}}
    assert saved[1]["start"] == {"recipe": recipe, "training": saved[0]["training"]}
    recipe = json.loads((first / "export" / "recipe.json").read_text())
    assert recipe["init_from"] == finished.name
    assert saved[2]["start"] == {"recipe": recipe, "training": saved[1]["training"], "start": saved[1]["start"]}

    bare = save_pretrained(tmp_path / "bare", timm.create_model("test_resnet", num_classes=0))
    assert start_of(str(bare)) is None and start_of("timm:test_resnet") is None
    for text in ("", "[]", '{"a":', "[" * 100_000):
        (bare / "results.json").write_text(text)
        assert start_of(str(bare)) is None
    assert start_of("star_resnet10t.cifar10").keys() >= {"recipe", "training"}
