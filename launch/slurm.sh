#!/usr/bin/env bash
# One run on one node, on all GPUs that the job has there:
#   sbatch launch/slurm.sh scale=paper resolver=pcr
#   sbatch --gpus-per-node=8 launch/slurm.sh scale=paper model=r1_7b
# Ten minutes before its time is over, or when it is preempted, the run saves a checkpoint and is put back in the queue;
# the same command then goes on where it stopped. One process stops at once, several (GPUs) at the end of a step. Lines
# for your cluster (account, partition, modules, the virtual environment) go below.
#SBATCH --job-name=pcr-run
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=128G
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@600
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# Slurm's steps do not inherit this from the job.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

code=0
srun pcr-run "launch.nproc=${SLURM_GPUS_ON_NODE:-1}" "$@" || code=$?
if [[ $code -eq 143 ]]; then # interrupted, can go on
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
