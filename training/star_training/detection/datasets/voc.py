"""The PASCAL VOC layout: JPEGImages/NAME.jpg, Annotations/NAME.xml, and lists of names in ImageSets/Main/SPLIT.txt."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...data.sources.base import DataError
from ...data.split_names import choose_split
from .base import Box, DetectionSet, Picture, make
from .orientation import settle

LISTS = Path("ImageSets", "Main")
_SUFFIXES = (".jpg", ".jpeg", ".png")


def read(root: Path, split: str) -> DetectionSet:
    """Returns the images of one list; classes are the sorted names in its annotations. Raises DataError."""
    # files with an underscore list one class only, e.g. cat_train.txt
    lists = {path.stem: path for path in sorted((root / LISTS).glob("*.txt")) if "_" not in path.stem}
    listed = lists[choose_split(split, lists, str(root / LISTS))]
    names = [line.split()[0] for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
    if wrong := [name for name in names if name != Path(name).name]:
        raise DataError(f"{listed} lists {wrong[0]!r}; expected names of files without their folder.")
    found = [_annotation(root / "Annotations" / f"{name}.xml") for name in names]
    classes = sorted({kind for _, _, objects in found for kind, _ in objects})
    place = {kind: number for number, kind in enumerate(classes)}
    pictures = []
    for name, (height, width, objects) in zip(names, found, strict=True):
        path = _image(root / "JPEGImages", name)
        boxes = [box._replace(label=place[kind]) for kind, box in objects]
        pictures.append(Picture(path, str(path), name, height, width, boxes))
    return make(root.name, classes, settle(root.name, pictures))


def _image(folder: Path, name: str) -> Path:
    for suffix in _SUFFIXES:
        if (path := folder / f"{name}{suffix}").is_file():
            return path
    raise DataError(f"{folder / name}.jpg doesn't exist (nor {', '.join(_SUFFIXES[1:])}), but its name is listed.")


class _NoDoctype(ElementTree.TreeBuilder):
    """Rejects DOCTYPE: annotations declare no entities, and a few bytes of those can expand to gigabytes."""

    def doctype(self, *_: Any) -> None:
        raise ValueError("it has a DOCTYPE, which annotations may not have")


def _annotation(path: Path) -> tuple[int, int, list[tuple[str, Box]]]:
    """Returns height, width and objects of an image, each object as class name and box."""
    try:
        root = ElementTree.parse(path, ElementTree.XMLParser(target=_NoDoctype())).getroot()
        height, width = (int(_text(root, f"size/{side}")) for side in ("height", "width"))
        return height, width, [(_text(node, "name"), _box(node)) for node in root.iter("object")]
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise DataError(f"can't read the annotation {path}: {error}.") from error


def _text(node: ElementTree.Element, path: str) -> str:
    text = (node.findtext(path) or "").strip()
    if not text:
        raise ValueError(f"<{node.tag}> has no {path}")
    return text


def _box(node: ElementTree.Element) -> Box:
    left, top, right, bottom = (float(_text(node, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
    # VOC counts pixels from 1 and includes the last
    return Box(0, left - 1, top - 1, right, bottom, difficult=node.findtext("difficult", "0").strip() == "1")
