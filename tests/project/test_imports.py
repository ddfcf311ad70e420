"""The shape of the three packages: imports go one way, folders and files stay small.

All imports count, those inside functions too.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import star_catalog
import star_training
import star_zoo

TRAINING, ZOO, CATALOG = (Path(package.__file__).parent for package in (star_training, star_zoo, star_catalog))
ORDER = (  # each imports those before it alone
    "errors", "messages", "settings", "numerics", "data", "models", "engine", "evaluation", "pretraining",
    "finetuning", "detection", "recipes", "publishing", "exporting", "reports", "studies", "benchmarks", "quickstart",
    "api", "cli", "__main__", "__init__",
)  # fmt: skip
MODULES = sorted(TRAINING.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """The dotted names that a module of a package imports, split at the dots and made absolute."""
    root = TRAINING.parent if path.is_relative_to(TRAINING.parent) else ZOO.parent  # the tests lie beside star_zoo
    here = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) + 1 - node.level] if node.level else ()
            module = tuple(node.module.split(".")) if node.module else ()
            yield from ((*above, *module, alias.name) for alias in node.names)


def part(path: Path) -> str:
    """The package of star_training, or the module at its top, that a file belongs to."""
    return path.relative_to(TRAINING).parts[0].removesuffix(".py")


def test_every_package_has_its_place_in_the_order():
    assert {part(path) for path in MODULES} == set(ORDER)


def test_the_imports_of_a_module_are_found_wherever_they_stand():
    found = {".".join(name) for name in imports(TRAINING / "api" / "pretrain.py")}
    assert {
        "typing.TYPE_CHECKING",
        "pathlib.Path",
        "star_training.recipes",
        "star_training.pretraining.run.Run",
    } <= found


@pytest.mark.parametrize("name", ORDER)
def test_a_package_imports_only_packages_before_it(name: str):
    allowed = {name, *ORDER[: ORDER.index(name)]}
    wrong = [
        f"{path.relative_to(TRAINING)}: {'.'.join(imported)}"
        for path in MODULES
        if part(path) == name
        for imported in imports(path)
        if imported[0] == "star_training" and not set(imported[1:2]) <= allowed
    ]
    assert wrong == []


def test_the_tests_mirror_the_packages():
    """Folders below tests/training are packages of star_training; a test imports no other test."""
    tests = Path(__file__).parents[1]
    folders = {path.name for path in (tests / "training").iterdir() if any(path.glob("test_*.py"))}
    assert len(folders) > 10 and folders <= {path.name for path in TRAINING.iterdir() if path.is_dir()}
    for path in tests.rglob("test_*.py"):
        assert not any(name[0].startswith("test_") for name in imports(path)), path


def test_star_zoo_imports_nothing_of_star_training():
    assert [path for path in ZOO.rglob("*.py") if any(name[0] == "star_training" for name in imports(path))] == []


def test_star_catalog_imports_the_standard_library_and_two_small_packages_when_they_are_needed():
    """At the top of a module, the standard library alone."""
    ours = {"star_catalog", *sys.stdlib_module_names}
    for path in CATALOG.rglob("*.py"):
        assert {name[0] for name in imports(path)} <= ours | {"filelock", "huggingface_hub"}, path
        tree = ast.parse(path.read_text(encoding="utf-8"))
        at_top = [name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names]
        at_top += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom) and not node.level]
        assert {name.partition(".")[0] for name in at_top} <= ours, path


def test_solvers_import_nothing_of_the_protocols():
    solvers = [name for path in (TRAINING / "evaluation" / "solvers").glob("*.py") for name in imports(path)]
    assert solvers and not any(name[:3] == ("star_training", "evaluation", "protocols") for name in solvers)


def test_folders_and_files_are_small():
    """The objectives may be many, one file each."""
    assert len(list(TRAINING.glob("*.py"))) <= 5
    files = [path for package in (TRAINING, ZOO, CATALOG) for path in package.rglob("*.py")]
    crowded = {path.parent for path in files if len(list(path.parent.glob("*.py"))) > 14}
    assert crowded <= {ZOO, ZOO / "objectives"} and len(list(ZOO.glob("*.py"))) <= 18
    assert [path for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 300] == []
