#!/usr/bin/env bash
# Install into .venv for this machine's accelerator and train, or resume, with the native engine.
#
#   launch/train.sh [--accelerator=cpu|gpu|tpu] [--dry_run] -- FLAGS OF dss train
#
# Example, on one TPU VM host:
#   launch/train.sh --accelerator=tpu -- --gin_file=gin/native/dss_cqa.gin \
#       --gin.RECORDS_DIR=gs://my-bucket/records --gin.MODEL_DIR=gs://my-bucket/runs/cqa
set -euo pipefail
cd "$(dirname "$0")/.."

accelerator=cpu
run=()
while (($#)); do
  case "$1" in
    --accelerator=*) accelerator="${1#*=}" ;;
    --dry_run) run=(echo) ;;
    --) shift; break ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "error: unknown flag $1; flags of the trainer come after --" >&2; exit 2 ;;
  esac
  shift
done
case "$accelerator" in
  cpu) package='.' ;;
  gpu | tpu) package=".[$accelerator]" ;;
  *) echo "error: --accelerator=$accelerator: use cpu, gpu or tpu" >&2; exit 2 ;;
esac
if ((!$#)); then
  echo 'error: nothing to train: give the flags of dss train after --' >&2
  exit 2
fi

[[ -x .venv/bin/python ]] || "${run[@]}" python3 -m venv .venv
"${run[@]}" .venv/bin/python -m pip install --quiet -e "$package"
"${run[@]}" .venv/bin/python -m dss_jax.train "$@"
