"""Exported files: onnxruntime and torch compute from them what timm computes, in batches of other sizes."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import timm
import torch
from torch import Tensor, nn

from star_catalog import zoo
from star_training.cli.execute import execute
from star_training.exporting import FORMATS, export, torch_export
from star_training.models.create import create
from star_zoo import groups, objectives, save_pretrained, wrapped_model, wrappers
from star_zoo.heads import Experts, Router, StarHeads
from star_zoo.symmetry.projections import Projection
from twins import POLICY

NAMES = ["a|b", "red", "grün"]
TAGS = sorted(path.name for path in zoo.EMBEDDED.iterdir())


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved vision transformer with names of classes and a licence."""
    torch.manual_seed(0)
    cfg = {"input_size": (3, 32, 32), "mean": (0.1, 0.2, 0.3), "license": "mit"}
    model = timm.create_model("test_vit", num_classes=3, img_size=32, pretrained_cfg_overlay=cfg)
    model.pretrained_cfg |= {"label_names": NAMES}
    return save_pretrained(tmp_path_factory.mktemp("classifier"), model)


def loaded(chosen: str, path: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    """The function in a file and its metadata, read as a user without star-zoo reads them."""
    extra = {"metadata.json": ""}
    if chosen == "onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (given,), (returned,) = session.get_inputs(), session.get_outputs()
        assert isinstance(given.shape[0], str) and given.shape[0] == returned.shape[0]  # a name: any number
        found = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
        assert (given.name, returned.name, given.shape[1:]) == ("images", found["outputs"], found["input_size"])
        return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), found
    if chosen == "torchscript":
        with pytest.warns(FutureWarning, match="torch.jit.load"):
            compute = torch.jit.load(path, _extra_files=extra)
    else:
        with path.open("rb") as file:
            compute = torch.export.load(file, extra_files=extra).module()
    return compute, json.loads(extra["metadata.json"])


def networks() -> list[list[str]]:
    """The tags of the package by their network, of which a file depends, weights aside."""
    found: dict[str, list[str]] = {}
    for tag in TAGS:
        config = json.loads((zoo.EMBEDDED / tag / "config.json").read_text())
        network = [config["architecture"], config.get("model_args"), config["pretrained_cfg"]["input_size"]]
        found.setdefault(json.dumps(network), []).append(tag)
    return list(found.values())


def cases(models: list[str]) -> list[tuple[str, str]]:
    """Every model, and every format, of models of one network."""
    pairs = zip(itertools.cycle(models), itertools.cycle(FORMATS), strict=False)
    return list(itertools.islice(pairs, max(len(models), len(FORMATS))))


CASES = [pair for models in [*networks(), ["classifier"]] for pair in cases(models)]


@pytest.mark.parametrize(("name", "chosen"), CASES)
def test_a_file_computes_what_timm_computes(
    name: str, chosen: str, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out, known = tmp_path / "model", str(classifier) if name == "classifier" else name
    assert execute(["export", known, "--to", chosen, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert re.search(r"largest difference from the model \d\.\de[-+]\d\d, relative", said.out) and said.err == ""
    assert list(tmp_path.iterdir()) == [out]

    model = timm.create_model(known if known in TAGS else f"local-dir:{known}", pretrained=True).eval()
    compute, found = loaded(chosen, out)
    for batch in (1, 5):
        images = torch.randn(batch, *model.pretrained_cfg["input_size"])
        with torch.no_grad():
            expected = model(images)
            torch.testing.assert_close(compute(images), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    config = timm.data.resolve_model_data_config(model)
    for key in ("input_size", "mean", "std"):
        assert found[key] == list(config[key])
    if name == "classifier":
        assert (found["outputs"], found["class_names"], found["license"]) == ("logits", NAMES, "mit")
        assert found["model"] == classifier.name
    else:
        assert (found["outputs"], found["license"]) == ("features", "apache-2.0") and "class_names" not in found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved backbone with heads, and a classifier of images that a canonicalizer turns, as fine-tuning saves it."""
    where, cfg = tmp_path_factory.mktemp("small"), {"input_size": (3, 32, 32)}
    model = timm.create_model("test_resnet", num_classes=0, pretrained_cfg_overlay=cfg)
    heads = objectives.build("star", model.num_features, POLICY, num_experts=2, hidden=8)
    upright = wrapped_model.savable(wrappers.build("canonical", [model], POLICY, group="c4"))
    upright.reset_classifier(3)
    return {
        "backbone": save_pretrained(where / "backbone", model, heads),
        "upright": save_pretrained(where / "upright", upright, model_args=upright._model_args),
    }


def test_wrappers_and_canonicalized_classifiers_are_exported(small: dict[str, Path], tmp_path: Path):
    model, out = small["backbone"], tmp_path / "model"
    for name in (f"concat:heads:{model}+{model}", str(small["upright"])):
        assert execute(["export", name, "--to", "torchscript", "--out", str(out)]) == 0
        compute, found = loaded("torchscript", out)
        eager = create(name, num_classes=None).eval()
        images = torch.randn(4, 3, 32, 32)
        with torch.no_grad():
            expected = eager(images)
            torch.testing.assert_close(compute(images), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
        assert found["outputs"] == ("features" if name.startswith("concat") else "logits")


@pytest.mark.parametrize("module", ["heads", "cross_section"])
def test_the_parts_of_wrappers_take_batches_of_any_size_in_torch_export(module: str):
    parts: dict[str, nn.Module] = {
        "heads": StarHeads(Experts(5, 2, 3), Router(5, 2)),
        "cross_section": Projection("cross_section", groups.find("d4"), 5),
    }
    part, shape = parts[module].eval(), {"heads": (5,), "cross_section": (5, 8)}[module]
    program = torch.export.export(part, (torch.randn(2, *shape),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for batch in (1, 7):
        x = torch.randn(batch, *shape)
        torch.testing.assert_close(program.module()(x), part(x))


def test_a_wrapper_that_draws_is_refused_with_the_reason(small: dict[str, Path], tmp_path: Path, capsys):
    name = f"averaged(views=2):{small['backbone']}"
    assert execute(["export", name, "--to", "onnx", "--out", str(tmp_path / "x.onnx")]) == 1
    error = capsys.readouterr().err
    assert "can't be exported: Averaged draws views of every batch, and a file holds fixed operations" in error
    assert error.count("\n") == 1 and not list(tmp_path.iterdir())


class Doubled(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return 1.001 * self.model(images)


def test_a_file_that_computes_something_else_is_not_kept(classifier: Path, tmp_path: Path, monkeypatch, capsys):
    write = torch_export.write
    monkeypatch.setattr(torch_export, "write", lambda model, *rest: write(Doubled(model), *rest))
    out = tmp_path / "model.pt2"
    out.write_text("earlier")
    assert execute(["export", str(classifier), "--to", "torch.export", "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "differ by 1.0e-03 of the largest one" in error and error.count("\n") == 1
    assert out.read_text() == "earlier" and list(tmp_path.iterdir()) == [out]


class Deciding(nn.Module):
    num_classes = 0
    pretrained_cfg = {"input_size": (3, 8, 8)}  # noqa: RUF012

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) if float(images.sum()) > 0 else images.amax((2, 3))


def test_a_network_that_no_exporter_takes_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(export, "create", lambda name, **_: Deciding())
    assert execute(["export", "mine", "--to", "torch.export", "--out", str(tmp_path / "x")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("star-zoo: 'mine' can't be exported to torch.export: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
