"""One thread for every test: small tensors gain nothing from more, and busy machines lose much."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

import torch

torch.set_num_threads(1)
