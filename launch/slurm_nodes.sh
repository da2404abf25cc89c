#!/usr/bin/env bash
# One run on several nodes, whose GPUs share the learner's weights; outputs/ must be on a disk that all of them see:
#   sbatch --nodes=2 --gpus-per-node=8 launch/slurm_nodes.sh scale=paper model=r1_7b
# Preempted or out of time, it is put back in the queue and goes on from its newest checkpoint.
#SBATCH --job-name=pcr-run
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=512G
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${nodes%%$'\n'*}
code=0
srun torchrun \
  --nnodes="$SLURM_NNODES" \
  --nproc-per-node="${SLURM_GPUS_ON_NODE:-1}" \
  --rdzv-backend=c10d \
  --rdzv-endpoint="$first:29500" \
  --rdzv-id="$SLURM_JOB_ID" \
  -m pcr_run.cli "$@" || code=$?
if [[ $code -ne 0 && $code -ne 2 ]]; then # torchrun has codes of its own; 2 is a bad configuration
  # Once in a quarter of an hour at most: what fails at once would do so again.
  [[ $SECONDS -ge 900 ]] && scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
