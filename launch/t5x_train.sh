#!/usr/bin/env bash
# Get T5X at the commit that was tried, install into .venv, and train, or resume, with it.
#
#   launch/t5x_train.sh [--accelerator=cpu|gpu|tpu] [--t5x=DIR] [--program=train|eval|infer]
#       [--dry_run] -- FLAGS OF t5x/train.py
#
# DIR (default: .t5x) is where T5X and what it imports are checked out, if they are not yet.
# On one host, GPUs or a TPU VM:
#   launch/t5x_train.sh --accelerator=tpu -- --gin_file=gin/dss_anli.gin \
#       --gin.RECORDS_DIR="'gs://my-bucket/records'" --gin.MODEL_DIR="'gs://my-bucket/runs/anli'"
# On a TPU slice of several hosts run the same command on all of them; they find each other:
#   gcloud compute tpus tpu-vm ssh NAME --worker=all --command='cd dss_jax && launch/t5x_train.sh ...'
# With several GPU hosts add T5X's own flags: --multiprocess_gpu --coordinator_address=HOST:PORT
#       --process_count=N --process_index=I
set -euo pipefail
cd "$(dirname "$0")/.."

accelerator=cpu t5x=.t5x program=train
run=()
while (($#)); do
  case "$1" in
    --accelerator=*) accelerator="${1#*=}" ;;
    --t5x=*) t5x="${1#*=}" ;;
    --program=*) program="${1#*=}" ;;
    --dry_run) run=(echo) ;;
    --) shift; break ;;
    -h | --help) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "error: unknown flag $1; flags of T5X come after --" >&2; exit 2 ;;
  esac
  shift
done
case "$accelerator" in
  cpu) package='.' ;;
  gpu | tpu) package=".[$accelerator]" ;;
  *) echo "error: --accelerator=$accelerator: use cpu, gpu or tpu" >&2; exit 2 ;;
esac
case "$program" in
  train | eval | infer) ;;
  *) echo "error: --program=$program: use train, eval or infer" >&2; exit 2 ;;
esac
if ((!$#)); then
  echo 'error: nothing to train: give the flags of T5X after --' >&2
  exit 2
fi

checkout() {  # organisation, name, commit
  [[ -d "$t5x/$2" ]] || "${run[@]}" git clone --quiet "https://github.com/$1/$2" "$t5x/$2"
  "${run[@]}" git -C "$t5x/$2" checkout --quiet "$3"
}
checkout google-research t5x cc342d4
checkout google airio 69897df
checkout google-research jestimator 326824a

[[ -x .venv/bin/python ]] || "${run[@]}" python3 -m venv .venv
"${run[@]}" .venv/bin/python -m pip install --quiet -e "$package"
"${run[@]}" .venv/bin/python -m pip install --quiet --no-deps -r launch/t5x_requirements.txt
path="$t5x/t5x:$t5x/airio:$t5x/jestimator${PYTHONPATH:+:$PYTHONPATH}"
"${run[@]}" env "PYTHONPATH=$path" .venv/bin/python "$t5x/t5x/t5x/$program.py" "$@"
