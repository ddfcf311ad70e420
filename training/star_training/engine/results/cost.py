"""The cost of a training, as a results.json and the card record it."""

from typing import Any

from ..environment import computed_with, peak_memory, versions
from ..trainer import Loop


def cost_of(run: Loop[Any], data_fingerprint: str) -> dict[str, Any]:
    """Returns the steps, images and seconds of a training so far, with its machine and its packages."""
    return {
        "steps": run.step,
        "images": run.step * run.batch_size * run.accumulate,
        "seconds": round(run.seconds, 1),
        **computed_with(run.processes),
        "precision": run.chosen["precision"],
        "peak_memory": peak_memory(run.accelerator.device),
        "data_fingerprint": data_fingerprint,
        "versions": versions(),
    }
