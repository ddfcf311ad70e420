"""The page about runs: what it shows are the records' numbers, with words for every picture, and no link elsewhere."""

import datetime
import importlib
import io
import json
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

import star_zoo
from runs import pictures
from star_catalog.writing import NotWritten
from star_training.cli.main import main
from star_training.data.eval_sets.dataset import Splits
from star_training.engine.results.old import upgrade
from star_training.evaluation.record import Record
from star_training.reports import details, figures
from star_training.reports.details import equivariance
from star_training.reports.drawing import looks_of, sized
from star_training.reports.loading import Shown, gather
from star_zoo import objectives, save_pretrained
from twins import POLICY, backbone

WORDS = {  # of the titles
    "training", "features", "experts", "embeddings", "augmentation", "invariant", "neighbours", "turned",
}  # fmt: skip


def number(value: float, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def records(data: Splits, accuracy: float) -> list[dict[str, Any]]:
    """One of every kind that the page draws from, as training/star_training/evaluation/record.py writes them."""
    shared = {"model": "m", "data": data.name, "seed": 0, "images": {"test": 16}}
    shared |= {"data_fingerprint": {"test": data.test.fingerprint}}
    curve = {"strengths": [0.5, 1.5], "unit": "x", "cosine": [0.25, 0.75], "mahalanobis": [1, 2]}
    rows = [[0, 1, 2], [2, 1, 0]]
    turned = {"degrees": {"quarter turns": [0, 90], "discs": [0, 45]}}
    turned |= {"quarter turns": {"Linear": [0.875, 0.3125]}, "discs": {"Linear": [0.75, 0.5]}}
    details = {
        "linear": ({"Linear top-1": number(accuracy, accuracy - 0.01, accuracy + 0.01)}, {}),
        "knn": ({"20-NN top-1": number(0.5)}, {}),
        "redundancy": (
            {},
            {"canonical correlations": [0.75, 0.25], "canonical correlations, shuffled pairs": [0.5, 0.25]},
        ),
        "equivariance": ({}, {"params": ["top", "hue"], "R2": {"pair, features": [0.125, 0.875]}}),
        "invariance": ({}, {"curves": {"rotation": curve, "grayscale": {**curve, "strengths": [1], "cosine": [0.5]}}}),
        "rotated": ({}, turned),
        "routing": (
            {},
            {
                "tasks": ["invariant", "equivariant"],
                "weights": [[0.125, 0.875], [0.625, 0.375]],
                "neighbours": {"queries": [0, 3], "invariant": rows, "equivariant": rows},
            },
        ),
    }
    return [{"protocol": p, "metrics": m, "details": d, **shared} for p, (m, d) in details.items()]


@pytest.fixture
def data(tmp_path: Path) -> Splits:
    for split in ("train", "test"):
        pictures(tmp_path / "images" / split, 8)
    return Splits(str(tmp_path / "images"))


@pytest.fixture
def runs(tmp_path: Path, data: Splits) -> list[Path]:
    """Two finished runs that differ in their accuracy, in a name that HTML must escape, and in the second's log."""
    made = []
    for name, accuracy in (("star", 0.625), ("sim<clr>", 0.5)):
        run = tmp_path / name
        torch.manual_seed(0)
        model = backbone()
        objective = objectives.build("star", model.num_features, POLICY, num_experts=2)
        save_pretrained(run / "export", model, objective, results={"evaluations": records(data, accuracy)})
        lines = [{"step": 0, "epoch": 0.0, "knn1_top1": 0.25}, {"step": 1, "loss": 9.5}, {"step": 2, "loss": 4.5}]
        lines.append({"step": 2, "epoch": 1.0, "knn1_top1": 0.75})
        lines += [{"step": 2 * e, "epoch": float(e), "router": [[0.5, 0.5], [e / 4, 1 - e / 4]]} for e in (0, 1)]
        (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        made.append(run)
    return made


class Page(HTMLParser):
    """What a reader sees: titles, pictures with their words, cells of tables."""

    def __init__(self, text: str):
        super().__init__()
        self.titles: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.cells: list[str] = []
        self.links: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag == "img":
            self.pictures.append(known)
        self.links += [str(known[name]) for name in ("src", "href") if name in known]
        self._open.append(tag)

    def handle_data(self, data: str) -> None:
        if self._open[-1:] in (["h2"], ["h3"]):
            self.titles.append(data)
        if self._open[-1:] in (["td"], ["th"]):
            self.cells.append(data)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass


def write(tmp_path: Path, *arguments: object) -> Page:
    out = tmp_path / "report.html"
    assert main(["report", *map(str, arguments), "--out", str(out)]) == 0
    return Page(out.read_text(encoding="utf-8"))


def test_a_page_shows_what_was_recorded_of_several_runs(tmp_path: Path, runs: list[Path], data: Splits):
    page = write(tmp_path, *runs, "--data", data.spec)
    assert all(any(word in title.lower() for title in page.titles) for word in WORDS)
    assert "62.5 [61.5, 63.5]" in page.cells and "50.0 [49.0, 51.0]" in page.cells
    for value in ("9.500", "4.500", "0.250", "0.750", "0.875", "0.625", "0.125", "0.312", "0.375"):
        assert value in page.cells, value
    assert page.titles.count("Accuracy by data set") == 1  # for all models and metrics
    assert {cell for cell in page.cells if cell.startswith("expert ")} == {"expert 1", "expert 2"}
    assert "sim<clr>" in page.cells  # escaped on its way
    near = [data.test.describe(index).removeprefix(f"{data.spec}/") for index in (0, 0, 1, 2)]
    row = page.cells.index(near[0])
    assert page.cells[row : row + 3] == [near[0], "; ".join(near[1:]), "; ".join(near[1:])]
    (alt, _) = (str(picture["alt"]) for picture in page.pictures if "nearest neighbours by" in str(picture["alt"]))
    assert alt.endswith("those of its class have a green solid frame, others a red dashed one.")
    assert len(page.pictures) == 8 + 2
    assert all(len(str(picture["alt"])) > 30 for picture in page.pictures)


def test_a_page_needs_nothing_from_elsewhere(tmp_path: Path, runs: list[Path], data: Splits):
    page = write(tmp_path, *runs, "--data", data.spec)
    assert page.links and all(link.startswith("data:") for link in page.links)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text and not re.findall(r"https?://", text)


def test_a_single_run_gets_its_figures_beside_its_model_and_in_its_card(tmp_path: Path, runs: list[Path]):
    write(tmp_path, runs[0])
    shown = {path.name for path in (runs[0] / "export").glob("*.png")}
    assert {
        "loss.png",
        "online.png",
        "routing.png",
        "canonical.png",
        "parameters.png",
        "invariance.png",
        "rotated.png",
        "usage.png",
    } == shown
    for name in shown:
        Image.open(runs[0] / "export" / name).verify()
        assert f"]({name})" in (runs[0] / "export" / "README.md").read_text(encoding="utf-8")


def test_a_model_that_can_not_be_written_costs_no_page(tmp_path: Path, runs: list[Path], monkeypatch, capsys):
    def write_card(folder: Path) -> None:
        raise NotWritten(folder / "README.md", "Read-only file system", "choose another")

    monkeypatch.setattr("star_training.publishing.card.write", write_card)
    assert write(tmp_path, runs[0]).pictures
    assert "the figures aren't added to the model's card: " in capsys.readouterr().out


def test_the_accuracy_of_a_fine_tuning_is_not_called_that_of_frozen_features(tmp_path: Path):
    lines = [{"step": step, "epoch": step / 2, "top1": step / 10} for step in (2, 4)]
    save_pretrained(tmp_path / "run" / "export", backbone())
    (tmp_path / "run" / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    page = write(tmp_path, tmp_path / "run")
    assert "Test accuracy during training" in page.titles
    assert not any("Frozen" in title for title in page.titles)


def test_turned_copies_are_shown_with_their_reconstructions(tmp_path: Path, data: Splits):
    torch.manual_seed(0)
    model = timm.create_model("star_c4_resnet10t", num_classes=0, stem=(4,), channels=(4, 8, 16, 32))
    objective = objectives.build("giae", model.num_features, POLICY, hidden=8)
    run = tmp_path / "auto"
    save_pretrained(run / "export", model, objective)
    page = write(tmp_path, run, "--data", data.spec)
    assert "Reconstructions of turned images, auto" in page.titles
    count, side, gap = len(data.test), 60, 12  # pixels of an image with its border, and between the three blocks
    errors = page.cells[page.cells.index("270°") + 1 :][: 5 * min(6, count)]
    assert all(len(set(errors[k + 1 : k + 5])) == 1 for k in range(0, len(errors), 5))  # equal over the orbit
    sheet = torch.from_numpy(np.array(Image.open(run / "export" / "reconstructions_auto.png"))).int()
    assert sheet.shape == (side * min(6, count), 3 * (4 * side + gap), 3)
    for row in range(min(6, count)):
        blocks = sheet[side * row :][: side - 4].unflatten(1, (3, 4 * side + gap))
        tiles = blocks[:, :, : 4 * side].unflatten(2, (4, side))[:, :, :, : side - 4].permute(1, 2, 4, 0, 3)
        (upright, *turned), reconstructed, (canonical, *same) = tiles  # 4 of (3, height, width) each
        for k, x in enumerate(turned, start=1):
            assert (x - upright.rot90(k, (-2, -1))).abs().max() <= 2
            assert (reconstructed[k] - reconstructed[0].rot90(k, (-2, -1))).abs().max() <= 2
        assert all((x - canonical).abs().max() <= 1 for x in same)
    assert main(["report", str(run), "--out", str(tmp_path / "x.html")]) == 1  # without data there is nothing to show


def test_a_results_file_shows_its_models(tmp_path: Path, data: Splits):
    path = tmp_path / "results.json"
    evaluations = [{**r, "model": name} for name in ("a", "untrained:b") for r in records(data, 0.5)]
    path.write_text(json.dumps({"evaluations": evaluations}))
    assert [model.label for model in gather([str(path)])] == ["a", "untrained:b"]
    assert "not measured" not in write(tmp_path, path).cells


def test_what_was_not_measured_is_said(tmp_path: Path, runs: list[Path], data: Splits):
    path = runs[1] / "export" / "results.json"
    other = [{**r, "data": "elsewhere"} for r in records(data, 0.75) if r["protocol"] == "linear"]
    path.write_text(json.dumps({"evaluations": other}))
    page = write(tmp_path, *runs)
    assert page.cells.count("not measured") == 1  # by 20-NN, on elsewhere
    text = " ".join((tmp_path / "report.html").read_text(encoding="utf-8").split())
    assert "The figure of routing for sim&lt;clr&gt;: needs details that `star-zoo eval routing MODEL` records." in text
    assert "The figure of projection for all models: needs" in text
    assert "Nearest neighbours and reconstructions: they need the images" in text


def test_a_page_names_its_date_its_version_and_the_training_of_its_models(tmp_path: Path, runs: list[Path]):
    recipe = {"backbone": "resnet18", "objective": "star", "epochs": 200, "data": {"source": "stl10"}}
    (runs[0] / "export" / "recipe.json").write_text(json.dumps(recipe))
    path = runs[0] / "export" / "results.json"
    rows = [{"metric": "knn20_top1", "name": "20-NN top-1", "data": "pets", "first": 0.5, "second": 0.375,
             "difference": number(0.125, 0.1, 0.15)}]  # fmt: skip
    compared = {"model": "star", "other": "simclr", "seed": 0, "rows": rows}
    path.write_text(json.dumps({"training": {"steps": 78_000}, "comparisons": [compared]}))
    page = write(tmp_path, *runs)
    row = page.cells.index("star")
    assert page.cells[row : row + 6] == ["star", "resnet18", "star", "stl10", "200", "78,000"]
    row = page.cells.index("pets")
    assert page.cells[row : row + 5] == ["pets", "20-NN top-1", "star: 50.0", "simclr: 37.5", "12.5 [10.0, 15.0]"]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"<p>{datetime.date.today():%d %B %Y}, star-zoo {star_zoo.__version__}. " in text


def test_a_model_has_one_colour_and_no_legend_covers_a_plot(data: Splits, monkeypatch: pytest.MonkeyPatch):
    """Also where the model before it has no such figure; text is readable where the figure is 358 pixels wide."""
    colours: dict[str, set[str]] = {}
    drawn = []

    def look(figure: Any, legend: bool = True) -> bytes:
        for axis in figure.axes:
            assert axis.get_legend() is None and (axis.get_xlabel() or figure._supxlabel)
            assert axis.get_ylabel() or figure._supylabel or axis.images
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                colour = handle.get_color() if hasattr(handle, "get_color") else handle.patches[0].get_facecolor()[:3]
                colours.setdefault(label, set()).add(to_hex(colour))
            texts = [t for t in axis.findobj(Text) if t.get_text()]
            assert min(t.get_fontsize() for t in texts) * 358 / (72 * figure.get_figwidth()) > 9
        drawn.append(figure)
        return b""

    for module in (figures, *(importlib.import_module(f"{details.__name__}.{name}") for name in details.known())):
        monkeypatch.setattr(module, "finish", look)
    log = [{"step": s, "loss": 1.0} for s in (1, 2)]
    routers = [{"step": s, "router": [[0.25] * 4, [0.25] * 4]} for s in (0, 2)]
    known = [Record.from_dict(upgraded) for upgraded in upgrade({"evaluations": records(data, 0.5)})["evaluations"]]
    figures.draw([Shown("a", None, routers, []), Shown("b", None, log, known), Shown("c", None, log, known)])
    assert len(drawn) == 7 and colours.keys() == {"b", "c", *(f"expert {k}" for k in (1, 2, 3, 4))}
    assert all(len(found) == 1 for found in colours.values())
    assert len(set.union(*colours.values())) == len(colours)


def test_a_bar_of_zero_can_be_seen():
    name = "$(m) \\frac$"  # a name of a folder, and no formula
    known = {name: {"params": [*"abcdef"], "R2": {"pair, features": [0.0] * 6}}}
    with sized():
        figure = equivariance.draw(known, looks_of([name]))
    assert figure is not None
    pixels = np.asarray(Image.open(io.BytesIO(figure.png)).convert("RGB")).astype(int)
    ink = (np.abs(pixels - np.array([0, 114, 178])).sum(2) < 120)[pixels.shape[0] // 3 :]  # below the legend
    assert ink.any(1).sum() > 60 and ink.any(0).sum() < 30  # stubs that are high and narrow


def test_images_that_are_others_are_refused(tmp_path: Path, runs: list[Path], data: Splits, capsys):
    pictures(tmp_path / "other" / "images" / "test", 6)
    pictures(tmp_path / "other" / "images" / "train", 6)
    assert main(["report", str(runs[0]), "--data", str(tmp_path / "other" / "images"), "--out", "x.html"]) == 1
    assert "does not contain the images that star was measured on" in capsys.readouterr().err


def test_data_of_which_nothing_is_shown_are_refused(runs: list[Path], tmp_path: Path, capsys):
    name = "my flowers; touch x"
    assert main(["report", str(runs[0]), "--data", name, "--out", str(tmp_path / "x.html")]) == 1
    said, command, _ = capsys.readouterr().err.split("`")
    assert f"--data {name}: no model has nearest neighbours" in said and said.endswith("nearest neighbours: images; ")
    assert shlex.split(command) == ["star-zoo", "eval", "routing", "MODEL", "--data", name]
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize(
    ("content", "message"), [("{}", "to show; run `star-zoo eval all` first"), ("[", "is not a valid results.json")]
)
def test_nothing_to_show_is_said(tmp_path: Path, capsys, content: str, message: str):
    (tmp_path / "results.json").write_text(content)
    assert main(["report", str(tmp_path / "results.json"), "--out", str(tmp_path / "x.html")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize("width", [390, 1000])
def test_a_browser_shows_it_without_complaint(tmp_path: Path, runs: list[Path], data: Splits, width: int):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium here; Debian's package `chromium` has it")
    write(tmp_path, *runs, "--data", data.spec)
    # what the page measures of itself is put where --dump-dom shows it
    check = (
        "<script>onload = () => document.body.dataset.found = JSON.stringify(["
        "document.documentElement.scrollWidth <= innerWidth, "
        "[...document.images].every(i => i.complete && i.naturalWidth > 0), document.images.length])</script>"
    )
    page = tmp_path / "checked.html"
    page.write_text((tmp_path / "report.html").read_text(encoding="utf-8").replace("</body>", check + "</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [chromium, *flags, f"--window-size={width},2000", "--enable-logging=stderr", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    (found,) = re.findall(r'data-found="([^"]+)"', done.stdout)
    assert json.loads(found.replace("&quot;", '"')) == [True, True, 10]
