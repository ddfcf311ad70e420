"""The images of the tests of fine-tuning."""

from pathlib import Path

import pytest

from finetune_cases import coloured


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured(tmp_path_factory.mktemp("images"))
