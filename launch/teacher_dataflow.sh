#!/usr/bin/env bash
# Ask a teacher from Google Cloud Dataflow: build this checkout as a wheel, and start the job.
#
#   launch/teacher_dataflow.sh --project=P --region=R --bucket=gs://B [--workers=N]
#       [--secret=NAME] [--dry_run] -- FLAGS OF dss teacher [-- OPTIONS OF BEAM]
#
# Inputs, completions, records and journal must be gs:// paths. --secret names a secret of Secret
# Manager in project P that holds the API key: workers fetch it themselves, so that it is on no
# command line and in no job's options. The workers' service account, and you, need the role
# roles/secretmanager.secretAccessor on it. Each worker installs the wheel and what it needs from
# PyPI when it starts, some minutes; --sdk_container_image=... after the second -- spares that.
#
# This program waits for the job, since it writes the manifest at the end: Ctrl-C cancels the job,
# and the same command goes on from there. Example:
#   launch/teacher_dataflow.sh --project=my-project --region=us-central1 --bucket=gs://my-bucket \
#       --workers=4 --secret=teacher-key -- --client=openai --model=NAME --in_flight=256 \
#       --dataset=esnli --split=train --inputs=gs://my-bucket/esnli.jsonl \
#       --records_dir=gs://my-bucket/records --num_shards=64
set -euo pipefail
cd "$(dirname "$0")/.."

project='' region='' bucket='' workers=1 secret=''
run=()
while (($#)); do
  case "$1" in
    --project=*) project="${1#*=}" ;;
    --region=*) region="${1#*=}" ;;
    --bucket=*) bucket="${1#*=}"; bucket="${bucket%/}" ;;
    --workers=*) workers="${1#*=}" ;;
    --secret=*) secret="${1#*=}" ;;
    --dry_run) run=(echo) ;;
    --) shift; break ;;
    -h | --help) sed -n '2,20s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "error: unknown flag $1; flags of the teacher come after --" >&2; exit 2 ;;
  esac
  shift
done
for needed in project region bucket; do
  [[ -n "${!needed}" ]] || { echo "error: give --$needed=..." >&2; exit 2; }
done
[[ "$bucket" == gs://?* ]] || { echo "error: --bucket=$bucket: give gs://NAME" >&2; exit 2; }
if ((!$#)); then
  echo 'error: nothing to ask: give the flags of dss teacher after --' >&2
  exit 2
fi

flags=()
while (($#)) && [[ "$1" != -- ]]; do
  flags+=("$1")
  shift
done
(($#)) && shift
flags+=(--runner=beam "--workers=$workers")
[[ -z "$secret" ]] || flags+=("--api_key_secret=projects/$project/secrets/$secret/versions/latest")

work=dist/dataflow
version=$(sed -n "s/^__version__ = '\(.*\)'/\1/p" dss_jax/__init__.py)
[[ -x .venv/bin/python ]] || "${run[@]}" python3 -m venv .venv
"${run[@]}" .venv/bin/python -m pip install --quiet -e '.[beam]'
# From a copy: a build in the tree would take along what earlier ones left in build/.
"${run[@]}" rm -rf "$work"
"${run[@]}" mkdir -p "$work/tree"
"${run[@]}" cp -r setup.py pyproject.toml README.md LICENSE dss_jax tasks gin "$work/tree"
"${run[@]}" .venv/bin/python -m pip wheel --quiet --no-deps -w "$work" "$work/tree"
"${run[@]}" .venv/bin/python -m dss_jax.teacher "${flags[@]}" -- \
  --runner=DataflowRunner "--project=$project" "--region=$region" \
  "--temp_location=$bucket/temp" "--staging_location=$bucket/staging" \
  "--extra_package=$work/dss_jax-$version-py3-none-any.whl" "$@"
