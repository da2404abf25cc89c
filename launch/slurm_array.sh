#!/usr/bin/env bash
# A sweep as an array of jobs. A file has the overrides of one cell a line; further arguments are those of every cell:
#   sbatch --array=1-4 launch/slurm_array.sh cells.txt outputs/table scale=paper
#   pcr-report outputs/table
# with cells.txt, for example:
#   resolver=pcr seed=0
#   resolver=pcr seed=1
#   resolver=none seed=0
#   resolver=none seed=1
# The same command again starts what is not complete; complete cells end at once.
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

cells=$1 sweep=$2
shift 2
line=$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$cells")
if [[ -z $line ]]; then
  echo "$cells has no line $SLURM_ARRAY_TASK_ID; right: --array=1-$(grep -c . "$cells")" >&2
  exit 2
fi
read -ra cell <<<"$line"
code=0
# Each cell gets the directory that its configuration names, so that the same cell finds it again.
srun pcr-run "hydra.run.dir=$sweep/\${run_name:}" "launch.nproc=${SLURM_GPUS_ON_NODE:-1}" "$@" "${cell[@]}" || code=$?
if [[ $code -eq 143 ]]; then # interrupted, can go on
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
