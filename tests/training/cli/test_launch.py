"""The files for clusters: Accelerate reads the YAMLs; the Slurm script runs, stops, is queued again and goes on.

Slurm itself is played by three small programs: srun starts two real processes, scancel signals them, scontrol notes it.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

import runs
from runs import STEPS, TINY, entries, exported, python
from star_training.cli.execute import parser

LAUNCH = Path(__file__).parents[3] / "training" / "launch"
GPUS = {"gpus_1.yaml": (1, 1), "gpus_4.yaml": (1, 4), "gpus_8.yaml": (1, 8), "nodes.yaml": (2, 16)}
SRUN = """#!/bin/bash
shift
echo "${@:5}" >> "$PLACE/srun"  # what follows bash -c COMMANDS NAME
for SLURM_PROCID in 0 1; do
    SLURM_PROCID=$SLURM_PROCID SLURM_LOCALID=$SLURM_PROCID "$@" &
    echo $! > "$PLACE/task-$SLURM_PROCID"
done
wait $(cat "$PLACE/task-0"); code=$?
wait; exit $code
"""
SCANCEL = """#!/bin/bash
[[ $1 == --signal=TERM && $2 == "$SLURM_JOB_ID" ]] && kill -TERM $(cat "$PLACE/task-0" "$PLACE/task-1")
"""
SCONTROL = """#!/bin/bash
case $1 in
    show) echo 127.0.0.1 ;;
    requeue) echo "$2" > "$PLACE/requeued"; kill -KILL 0 ;;  # Slurm ends the job, to queue it again
esac
"""


def test_there_are_no_files_but_those_tested():
    assert {path.name for path in LAUNCH.iterdir()} == {*GPUS, "gpu_check.sh", "slurm.sh"}


@pytest.mark.parametrize("name", GPUS)
def test_accelerate_reads_its_configurations(name: str):
    config = load_config_from_file(str(LAUNCH / name))
    assert (config.num_machines, config.num_processes) == GPUS[name]
    kind = DistributedType.NO if config.num_processes == 1 else DistributedType.MULTI_GPU
    assert config.distributed_type == kind and not config.use_cpu
    assert config.mixed_precision == "no"  # Accelerate gets the recipe's
    assert config.machine_rank == 0 and (config.main_process_ip is not None) == (config.num_machines > 1)


@pytest.mark.parametrize("name", GPUS)
def test_the_command_that_a_configuration_shows_can_be_given(name: str):
    text = " ".join(line.removeprefix("#") for line in (LAUNCH / name).read_text().splitlines() if line[0] == "#")
    (given,) = re.findall(
        r"accelerate launch --config_file (\S+) .*?-m star_training (pretrain RECIPE --out RUN)", text
    )
    assert Path(given[0]).parts[-2:] == ("launch", name)
    assert parser().parse_args(given[1].split()).out == Path("RUN")


# Slurm


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the programs of Slurm."""
    starter = f'#!/bin/bash\nexec {python()} "$@"\n'
    for name, text in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL), ("python", starter)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    return tmp_path


def job(place: Path, *arguments: str) -> subprocess.Popen:
    """The Slurm script as a job of two tasks."""
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", str(LAUNCH / "slurm.sh"), *arguments],
        env=os.environ | runs.settings() | slurm | {"PATH": path, "PLACE": str(place)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def settings() -> list[str]:
    return [word for setting in (*TINY, "epochs=8", "run.eval_every=0") for word in ("--set", setting)]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_slurm_script_is_bash_and_asks_for_what_it_uses():
    assert subprocess.run(["bash", "-n", str(LAUNCH / "slurm.sh")]).returncode == 0
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", (LAUNCH / "slurm.sh").read_text(), re.MULTILINE))
    assert asked["ntasks-per-node"] == asked["gpus-per-node"] == "8"
    assert asked["signal"].startswith("B:USR1@") and "requeue" in asked


def started(place: Path, out: Path) -> subprocess.Popen:
    """A job whose run has made a step."""
    begun = job(place, "spirograph_tiny", str(out), *settings())
    deadline = time.monotonic() + 120
    while not ((out / "log.jsonl").exists() and entries(out)):
        assert begun.poll() is None and time.monotonic() < deadline, begun.communicate()
        time.sleep(0.01)
    return begun


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_job_whose_time_is_up_is_queued_again_and_goes_on(place: Path):
    out = place / "run"
    first = started(place, out)
    os.kill(first.pid, signal.SIGUSR1)
    printed = first.communicate(timeout=60)[0]
    assert first.returncode == -signal.SIGKILL and (place / "requeued").read_text() == "7\n", printed
    step = entries(out)[-1]["step"]
    assert 1 <= step < 4 * STEPS and printed.count(f"stopped by SIGTERM after step {step}") == 2
    again = job(place, "spirograph_tiny", str(out), *settings())
    printed = again.communicate(timeout=120)[0]
    assert again.returncode == 0, printed
    assert [e["step"] for e in entries(out)] == [*range(1, 4 * STEPS + 1)] and exported(out)
    given = [parser().parse_args(["pretrain", *line.split()]) for line in (place / "srun").read_text().splitlines()]
    assert [(one.recipe, one.out, one.resume) for one in given] == [("spirograph_tiny", out, r) for r in (False, True)]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_job_that_fails_is_not_queued_again(place: Path):
    failed = job(place, "no_such_recipe", str(place / "run"))
    printed = failed.communicate(timeout=120)[0]
    assert failed.returncode == 1 and "'no_such_recipe' not found" in printed
    assert not (place / "requeued").exists() and not (place / "run").exists()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_job_that_slurm_takes_away_stops_and_waits_for_slurm(place: Path):
    out = place / "run"
    taken = started(place, out)
    tasks = [int((place / f"task-{rank}").read_text()) for rank in (0, 1)]
    for process in (*tasks, taken.pid):
        os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{task}").exists() for task in tasks):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(subprocess.TimeoutExpired):  # it is Slurm that queues it again, or not
        taken.wait(1)
    os.killpg(taken.pid, signal.SIGKILL)
    step = entries(out)[-1]["step"]
    assert taken.communicate()[0].count(f"stopped by SIGTERM after step {step}") == 2
    assert sorted((out / "checkpoints").iterdir())[-1].name == f"step-{step:09d}.safetensors"
    assert not (place / "requeued").exists()
