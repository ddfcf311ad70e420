#!/bin/bash
# Checks training on one NVIDIA GPU in under 8 minutes: the tests marked `gpu`, then our step beside the backbone alone
# and lightly's step, if that is installed. Writes one JSON:
#     training/launch/gpu_check.sh RESULT.json
#     training/launch/gpu_check.sh --dry RESULT.json    # the same on a CPU in less than a minute, see below
set -euo pipefail

device=cuda tests=(-m gpu)
steps=(--precision bf16 --batch 512 256 128 --rounds 5 --steps 10 --workers "$(($(nproc) > 2 ? $(nproc) - 2 : 1))")
if [[ ${1:-} == --dry ]]; then
    shift
    # a few tests, because the suite runs all of them on the CPU, and one step per round of the two smaller sizes
    device=cpu tests=(-k 'cpu and (stopped or batches)')
    steps=(--size r18-32 r18-96 --precision no --batch 2 2 --rounds 1 --steps 1 --workers 0)
fi
if [[ $# != 1 ]]; then
    echo "usage: $0 [--dry] RESULT.json" >&2
    exit 2
fi
result=$(realpath "$1")
cd "$(dirname "$0")/../.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

export CUBLAS_WORKSPACE_CONFIG=:4096:8 # the test of exact resume needs sums in one order
python - "$device" << 'END'
import sys, torch
found = "cuda" if torch.cuda.is_available() else "cpu"
sys.exit(0 if found == sys.argv[1] else f"this machine trains on {found}, the check is for {sys.argv[1]}")
END
python -m pytest -q -p no:cacheprovider "${tests[@]}" --junitxml "$scratch/tests.xml" \
    tests/training/engine/test_devices.py
unset CUBLAS_WORKSPACE_CONFIG
python -m star_training bench device "${steps[@]}" --out "$scratch/speed.json"
python - "$scratch" "$result" << 'END'
import json, sys
from pathlib import Path
from xml.etree import ElementTree

scratch, result = map(Path, sys.argv[1:])
suite = ElementTree.parse(scratch / "tests.xml").getroot().find("testsuite").attrib
tests = {name: int(suite[name]) for name in ("tests", "skipped", "failures", "errors")}
speed = json.loads((scratch / "speed.json").read_text())
result.write_text(json.dumps({"tests": tests, **speed}, indent=2) + "\n")
END
echo "wrote $result"
