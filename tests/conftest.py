"""One thread for every test, no network, and a store of models that is empty at first."""

import os
import tempfile

# small tensors gain nothing from more, and busy machines lose much
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when the Hub client is imported
_home = tempfile.TemporaryDirectory(prefix="star-zoo-tests-")  # removed with the process
os.environ["STAR_ZOO_HOME"] = _home.name

import torch  # noqa: E402

torch.set_num_threads(1)
