"""The processor of this machine, as Linux describes it in /proc/cpuinfo."""

import platform
from pathlib import Path

# of x86's AVX512 and AMX, of ARM's Neon and SVE
_BF16 = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}


def describe() -> list[str]:
    """Returns the processor's model, and its instruction sets if the system reports them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    except OSError:
        return [platform.machine(), platform.processor()]


def has_bf16() -> bool:
    """Returns whether the processor lists instructions for bfloat16, which is emulated without them.

    False on systems other than Linux, which don't report them.
    """
    return any(not _BF16.isdisjoint(line.split()) for line in describe() if line.startswith(("flags", "Features")))
