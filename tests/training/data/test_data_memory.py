"""Sets of any size are streamed in constant memory: by the process that trains and by the worker that decodes."""

import multiprocessing
import os
from pathlib import Path

import pytest

from data_cases import encoded, write_tar
from star_training.data import open_source
from star_training.data.lazy import StreamedSource
from star_training.data.views import MultiViewDataset, StepBatches, loader
from star_zoo import objectives
from twins import every_operation, photos

SHARDS, PER_SHARD, BATCH = 4, 2500, 50
WARM, EVERY = 4000, 1000  # images seen before memory is first looked at, and between looks
GROWTH = 6.0  # MB that a process may grow by over the 6,000 images after that
statm = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc/self/statm")


def megabytes(process: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def shards(root: Path) -> Path:
    """10,000 labelled JPEGs of 1.5 to 4 kB, 64 pixels high and 48 to 80 wide."""
    files = [encoded(_image(40 + width), "JPEG", quality=40) for width in range(8, 41)]
    for number in range(SHARDS):
        members = {}
        for k in range(PER_SHARD):
            members[f"{k:06d}.jpg"] = files[k % len(files)]
            members[f"{k:06d}.cls"] = b"%d" % (k % 10)
        write_tar(root / f"shard-{number:04d}.tar", members)
    return root


def _image(width: int):
    from PIL import Image

    return Image.fromarray(photos(1, 64, width, seed=width)[0].permute(1, 2, 0).contiguous().numpy())


@statm
@pytest.mark.slow
def test_ten_thousand_images_are_streamed_in_constant_memory(tmp_path: Path):
    source = open_source(str(shards(tmp_path)), cache_bytes=0)
    assert isinstance(source, StreamedSource) and len(source) == SHARDS * PER_SHARD == 10_000
    policy = every_operation(16)
    views = MultiViewDataset(source, policy, objectives.build("simclr", 8, policy).plan, seed=0)
    resident: dict[str, list[float]] = {"main": [], "worker": []}
    seen, others = 0, set(multiprocessing.active_children())  # of tests before this one, not yet gone
    for batch in loader(views, StepBatches(len(source), BATCH, 1, 0, range(len(source) // BATCH)), 1, pin=False):
        seen += len(batch.index)
        if seen >= WARM and seen % EVERY == 0:
            (worker,) = set(multiprocessing.active_children()) - others
            resident["main"].append(megabytes(os.getpid()))
            resident["worker"].append(megabytes(worker.pid))
    assert seen == len(source) and source.bad == ()
    assert len(resident["worker"]) == (seen - WARM) // EVERY + 1
    grown = {process: max(values) - values[0] for process, values in resident.items()}
    assert max(grown.values()) < GROWTH, f"grew by {grown} MB: {resident}"
