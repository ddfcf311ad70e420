"""One thread for every test, no network, a store of models that is empty at first, and slow files first."""

import copy
import gc
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator

# small tensors gain nothing from more, and busy machines lose much
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when the Hub client is imported
_home = tempfile.TemporaryDirectory(prefix="star-zoo-tests-")  # removed with the process
os.environ["STAR_ZOO_HOME"] = _home.name

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
# nothing that imports the Hub client, which loopback_client configures for each process
multiprocessing.set_forkserver_preload(["torch", "torchvision.transforms.v2", "scipy.special"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves the files with slow tests to the front, so that no process ends long after the others."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Exempts everything imported so far from garbage collection, which would look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def installed_models_are_forgotten() -> Iterator[None]:
    """Restores timm's registry, to which `star_zoo.install` adds a model."""
    if "star_zoo" not in sys.modules:
        yield
        return
    from star_zoo import star_backbones

    registry = vars(sys.modules["timm.models._registry"])
    tables = [star_backbones.default_cfgs, *(t for name, t in registry.items() if name.startswith(("_model", "_dep")))]
    tables = [table for table in tables if isinstance(table, dict | set)]
    before = [copies(table) for table in tables]
    yield
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)


def copies(table: dict | set) -> dict | set:
    """Returns a copy of a table, and of the lists and sets that it holds."""
    if isinstance(table, set):
        return set(table)
    return {key: copy.copy(value) if isinstance(value, list | set) else value for key, value in table.items()}
