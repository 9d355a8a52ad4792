#!/usr/bin/env bash
# Install into .venv and submit a training job to SLURM: GPUs of one or several nodes.
#
#   launch/slurm.sh [FLAGS] [--dry_run] -- FLAGS OF dss train
#
#   --nodes=N --gpus_per_node=G     default 1 and 1
#   --time=... --partition=... --account=...   as sbatch has them
#   --sbatch_option=OPTION          any other option of sbatch; may be repeated
#   --python=PATH                   a Python that has this package: install nothing
#   --restarts=N                    how often a job that saves and exits within ten minutes is put
#                                   back into the queue; default 5
#
# Two minutes before the time limit the trainer is told to save; the job goes back into the queue
# by itself and continues there, as after a preemption. This checkout, records and MODEL_DIR must be
# where all nodes see them. Logs are in runs/slurm. Example, 2 nodes with 4 GPUs each:
#   launch/slurm.sh --nodes=2 --gpus_per_node=4 --time=12:00:00 --partition=gpu \
#       --sbatch_option=--mem=64G -- --gin_file=gin/native/dss.gin --gin.DATASET=anli \
#       --gin.INITIAL_CHECKPOINT_PATH=google/t5-v1_1-base --gin.RECORDS_DIR=records \
#       --gin.MODEL_DIR=runs/anli
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/common.sh
. launch/common.sh

nodes=1 gpus_per_node=1 python='' restarts=5 options=()
while (($#)); do
  case "$1" in
    --nodes=*) nodes="${1#*=}" ;;
    --gpus_per_node=*) gpus_per_node="${1#*=}" ;;
    --time=* | --partition=* | --account=*) options+=("$1") ;;
    --sbatch_option=*) options+=("${1#*=}") ;;
    --python=*) python="${1#*=}" ;;
    --restarts=*) restarts="${1#*=}" ;;
    --dry_run) dry_run=1 ;;
    --) shift; break ;;
    -h | --help) show_help ;;
    *) fail "unknown flag $1; for sbatch: --sbatch_option=$1; flags of the trainer: after --" ;;
  esac
  shift
done
check_number nodes "$nodes"
check_number gpus_per_node "$gpus_per_node"
check_number restarts "$restarts"
(($#)) || fail 'nothing to train: give the flags of dss train after --'
[[ $(gin_value MODEL_DIR "$@") ]] || fail 'give --gin.MODEL_DIR=..., a folder that all nodes see'
[[ $dry_run ]] || command -v sbatch >/dev/null ||
  fail 'sbatch is not on PATH: run this on a login node of the cluster'

if [[ ! $python ]]; then
  python=$PWD/.venv/bin/python
  [[ -x $python ]] || run python3 -m venv .venv
  run "$python" -m pip install --quiet -e '.[gpu]'
fi
run mkdir -p runs/slurm
# One task per GPU: jax.distributed takes the number of processes from SLURM_NTASKS and gives each
# the one device with its SLURM_LOCALID, so a task per node would leave all but one GPU idle.
# The signal goes to the job's steps, not to the batch shell, which would only die of it.
run sbatch --job-name=dss "--nodes=$nodes" "--ntasks-per-node=$gpus_per_node" \
  "--gpus-per-node=$gpus_per_node" --requeue --signal=TERM@120 --open-mode=append \
  "--chdir=$PWD" "--output=$PWD/runs/slurm/%j.log" ${options[@]+"${options[@]}"} \
  launch/slurm_job.sh "$python" "$restarts" "$@"
