#!/usr/bin/env bash
# One run on several nodes, whose GPUs share the learner's weights; outputs/ must be on a disk that all of them see:
#   sbatch --nodes=2 --gpus-per-node=8 launch/slurm_nodes.sh scale=paper model=r1_7b
# Preempted or out of time, it is put back in the queue and goes on from its newest checkpoint (checkpoint.every).
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

# Slurm's steps do not inherit this from the job.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
# torchrun would give each process one thread, with which samples are scored and an offloaded optimizer steps.
gpus=${SLURM_GPUS_ON_NODE:-1}
export OMP_NUM_THREADS=$((SRUN_CPUS_PER_TASK > gpus ? SRUN_CPUS_PER_TASK / gpus : 1))

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${nodes%%$'\n'*}
port=$((20000 + SLURM_JOB_ID % 10000)) # jobs that share a node meet at ports of their own
code=0
# One torchrun a node; it gives its processes MASTER_ADDR and ranks. When one ends early, so do the others.
srun --kill-on-bad-exit=1 torchrun \
  --nnodes="$SLURM_NNODES" \
  --nproc-per-node="$gpus" \
  --rdzv-backend=c10d \
  --rdzv-endpoint="$first:$port" \
  --rdzv-id="$SLURM_JOB_ID" \
  -m pcr_run.cli "$@" || code=$?
if [[ $code -ne 0 && $code -ne 2 ]]; then # torchrun has codes of its own; 2 is a bad configuration
  # Once in a quarter of an hour at most: what fails at once would do so again.
  [[ $SECONDS -ge 900 ]] && scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
