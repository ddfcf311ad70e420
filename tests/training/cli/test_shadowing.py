"""Files and folders of the user's own that are called `training` disturb nothing: real processes beside them."""

from pathlib import Path

import pytest

from runs import command, finish, start
from star_training.pretraining.run import is_whole


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a module and a package `training`, neither of which can be imported."""
    (tmp_path / "training").mkdir()
    for file in (tmp_path / "training.py", tmp_path / "training" / "__init__.py"):
        file.write_text("raise ImportError('this is the training of another project')")
    return tmp_path


def test_the_package_is_imported_there(place: Path):
    code = "import sys, star_training.cli.main; print('training' in sys.modules)"
    assert finish(start([], program=("-c", code), cwd=place))[:2] == (0, "False\n")


@pytest.mark.slow
def test_torchrun_pretrains_there(place: Path):
    program = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1", "-m", "star_training")
    arguments = command(Path("run"), settings=("epochs=1",))
    code, _, said = finish(start(arguments, program=program, warnings="default", cwd=place))
    assert code == 0, said
    assert is_whole(place / "run" / "export") and (place / "run" / "export" / "README.md").is_file()
