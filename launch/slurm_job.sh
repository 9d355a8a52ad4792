#!/usr/bin/env bash
# The batch script of launch/slurm.sh: one trainer per GPU, and back into the queue on exit code 75.
#
#   slurm_job.sh PYTHON RESTARTS FLAGS OF dss train
set -euo pipefail
# SLURM runs a copy of this file, from its spool: everything is relative to --chdir.
python=$1 restarts=$2
shift 2

# srun's exit code is the highest of its tasks'. While some have saved and left with 75, others may
# still be writing, and a cluster may be set up to kill them then. If one crashes, jax.distributed
# ends the others. Every task must see all GPUs of its node: jax picks by number.
code=0
# srun does not take this one from sbatch by itself.
[[ ! ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
srun --kill-on-bad-exit=0 --wait=600 --gpu-bind=none \
  "$python" -m dss_jax.train --distributed "$@" || code=$?
((code == 75)) || exit "$code"

# A trainer that asks to be restarted again and again without working is not.
count_file=runs/slurm/$SLURM_JOB_ID.restarts
if ((SECONDS >= 600)); then
  rm -f "$count_file"
else
  count=0
  [[ ! -e $count_file ]] || count=$(<"$count_file")
  if ((count >= restarts)); then
    echo "error: exit code 75 again after $restarts restarts in a short time: not requeued" >&2
    exit 75
  fi
  echo "$((count + 1))" >"$count_file"
fi
echo 'exit code 75: state is saved, the job goes back into the queue' >&2
scontrol requeue "$SLURM_JOB_ID"
