"""Whether convolutions may run in channels_last on this CPU.

Some kernels write outside their memory or compute wrong gradients in this layout, which causes crashes or wrong
weights. A trial in a separate process detects this, and its verdict is cached on this machine.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from star_catalog.files import write_json
from star_catalog.store import home, keeping

from . import processor, trial

_SECONDS = 600  # timeout of a trial


class Convolutions(TorchDispatchMode):
    """Collects the distinct two-dimensional convolutions that run inside, in the form that `trial` reads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[trial.Convolution] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.convolution.default and args[0].ndim == 4:
            tensors, settings = args[:3], args[3:]
            convolution = [None if t is None else list(t.shape) for t in tensors] + list(settings)
            if convolution not in self.found:
                self.found.append(convolution)
        return function(*args, **(kwargs or {}))


def fault(convolutions: list[trial.Convolution], precision: str) -> str | None:
    """Returns which convolution fails in channels_last on this CPU, and how; None if all are correct."""
    dtype = "bfloat16" if precision == "bf16" else "float32"
    asked = {"threads": torch.get_num_threads(), "dtype": dtype, "convolutions": convolutions}
    path = home() / "layouts" / f"{_key(asked)}.json"
    # no verdict yet, or a damaged one
    with contextlib.suppress(OSError, LookupError, RecursionError, TypeError, ValueError):
        cached = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(cached["fault"], str | None):
            return cached["fault"]
    code, printed = _try(asked)
    if code and (not printed):
        return "channels_last could not be tested on this CPU"
    verdict = None
    if code:
        how = {trial.WRONG: "computes wrong numbers", trial.HANGS: "hangs"}.get(code, "crashes")
        verdict = f"{_named(convolutions[int(printed.split()[-1])])} {how} in channels_last on this CPU"
    with keeping():  # otherwise the next run repeats the trial
        write_json(path, {"fault": verdict, **asked})
    return verdict


def _key(asked: dict[str, Any]) -> str:
    """Returns a hash of everything that a verdict depends on: convolutions, torch, processor, the trial itself."""
    backend = {name: value for name, value in os.environ.items() if name.startswith(("DNNL_", "ONEDNN_"))}
    source = Path(trial.__file__).read_text(encoding="utf-8")
    parts = [asked, torch.__version__, torch.backends.cpu.get_cpu_capability(), processor.describe(), backend, source]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _try(asked: dict[str, Any]) -> tuple[int, str]:
    """Runs a trial and returns its exit code and its output."""
    # fills uninitialised memory with numbers of 1e37, and lets waiting threads sleep
    environment = os.environ | {"MALLOC_PERTURB_": "129", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, trial.__file__]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return trial.HANGS, (error.stdout or b"").decode()
    except OSError:  # Python can't be started, or memory is short
        return 1, ""
    return done.returncode, done.stdout


def _named(convolution: trial.Convolution) -> str:
    """Returns the description of a convolution, for messages."""
    shape, weight, _, stride, padding = convolution[:5]
    kernel = "x".join(map(str, weight[2:]))
    settings = f"{shape[1]} to {weight[0]} channels, stride {stride[0]}, padding {padding[0]}"
    return f"a {kernel} convolution ({settings}) on maps {shape}"
