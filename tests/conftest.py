"""One thread for every test, no network, a store of models that is empty at first, and slow files first."""

import gc
import multiprocessing
import os
import tempfile

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
