"""A finished run, with which the tests of resuming compare."""

from pathlib import Path

import pytest

from runs import NOISY, command
from star_training.cli.main import main


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(command(out, settings=NOISY)) == 0
    return out
