#!/bin/bash
# A pretraining run on nodes with 8 GPUs that survives its time limit and preemption:
#     sbatch --nodes 2 training/launch/slurm.sh RECIPE RUN [more arguments of star-zoo pretrain]
# RUN is a folder that all nodes see. Two minutes before the limit, or on preemption, the run writes a checkpoint and
# stops. When the job is queued again, the run continues with --resume.
#SBATCH --job-name=star-zoo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

recipe=$1 out=$2
shift 2
resume=()
if [[ -e $out/recipe.json ]]; then resume=(--resume); fi

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000)) OMP_NUM_THREADS=1

limit=
trap 'limit=near; scancel --signal=TERM "$SLURM_JOB_ID"' USR1 # Slurm signals only this script, which forwards it
trap : TERM                                                   # Slurm signals the tasks itself

# exec without a launcher: each process must get the signal exactly once, because a second one kills it
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    export LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
    exec python -m star_training pretrain "$@"
' task "$recipe" --out "$out" "${resume[@]}" "$@" &
tasks=$!
while kill -0 "$tasks" 2> /dev/null; do wait "$tasks"; done # a trap interrupts wait
wait "$tasks"
code=$?

if [[ $code == 143 ]]; then # stopped by SIGTERM, with a checkpoint
    if [[ $limit ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
    sleep 600 # until Slurm ends the job; Slurm itself queues a preempted job again, but not a cancelled one
fi
exit "$code"
