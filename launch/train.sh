#!/usr/bin/env bash
# Install into .venv for this machine's accelerator and train, or resume, with the native engine.
#
#   launch/train.sh [--accelerator=cpu|gpu|tpu] [--restarts=N] [--dry_run] -- FLAGS OF dss train
#
# One machine, with all the GPUs it has. The trainer saves on SIGTERM and exits with 75;
# --restarts=N (default 0) starts it again then, at most N times with less than ten minutes between.
# SIGTERM or Ctrl-C to this script goes to the trainer and is final.
#
# Examples, one machine with GPUs, and one TPU VM host:
#   launch/train.sh --accelerator=gpu --restarts=5 -- --gin_file=gin/native/dss.gin --gin.DATASET=cqa \
#       --gin.RECORDS_DIR=records --gin.MODEL_DIR=runs/cqa
#   launch/train.sh --accelerator=tpu -- --gin_file=gin/native/dss.gin --gin.DATASET=cqa \
#       --gin.RECORDS_DIR=gs://my-bucket/records --gin.MODEL_DIR=gs://my-bucket/runs/cqa
# For TPU slices see launch/tpu_vm.sh, for GPUs of several machines launch/slurm.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/common.sh
. launch/common.sh
# shellcheck source=launch/restart.sh
. launch/restart.sh

accelerator=cpu restarts=0
while (($#)); do
  case "$1" in
    --accelerator=*) accelerator="${1#*=}" ;;
    --restarts=*) restarts="${1#*=}" ;;
    --dry_run) dry_run=1 ;;
    --) shift; break ;;
    -h | --help) show_help ;;
    *) fail "unknown flag $1; flags of the trainer come after --" ;;
  esac
  shift
done
case "$accelerator" in
  cpu) package='.' ;;
  gpu | tpu) package=".[$accelerator]" ;;
  *) fail "--accelerator=$accelerator: use cpu, gpu or tpu" ;;
esac
check_number restarts "$restarts"
(($#)) || fail 'nothing to train: give the flags of dss train after --'

[[ -x .venv/bin/python ]] || run python3 -m venv .venv
run .venv/bin/python -m pip install --quiet -e "$package"
train=(.venv/bin/python -m dss_jax.train "$@")
if [[ $dry_run ]]; then
  quoted "${train[@]}"
else
  restart_on_75 "$restarts" 1 "${train[@]}"
fi
