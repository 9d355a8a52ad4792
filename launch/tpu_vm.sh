#!/usr/bin/env bash
# Train on a Cloud TPU slice of one or several hosts: a queued resource, on demand or spot.
#
#   launch/tpu_vm.sh COMMAND --name=NAME --zone=ZONE [FLAGS] [--dry_run] [-- FLAGS OF dss train]
#
# Commands:
#   create    ask for the slice, and wait until it is there
#   install   copy this checkout's HEAD to every host and install it
#   run       start training on every host; it outlives the connection
#   watch     show the log of host 0 until training ends; exits with the trainer's exit code
#   stop      tell the trainer to save and exit
#   delete    delete the slice and its queued resource
#   up        create, install, run and watch; after a preemption all of that again, and training
#             resumes. Ends when training is done, or fails. Interrupted, start it again: it
#             finds what is there
#
# Flags:
#   --accelerator_type=v5litepod-16   for create and up
#   --runtime_version=NAME    default: what fits the accelerator type
#   --spot                    cheaper capacity that can be preempted
#   --project=ID              default: gcloud's own setting
#   --restarts=N              how often in a short time a trainer that exits with 75 (saved, start
#                             me again) is started again; default 5
#   --delete_when_done        up: delete the slice after success
#   --worker=N                watch: another host's log
#   --create_option=... --ssh_option=...   passed on to gcloud; may be repeated
#   --dry_run                 print the commands, do nothing
#
# Everything that training reads and writes must be in gs:// paths: hosts share no disk, and a
# preempted slice loses its own. The hosts' service account needs access to the bucket. Examples:
#   launch/tpu_vm.sh up --name=dss --zone=us-west4-a --accelerator_type=v5litepod-16 --spot \
#       --delete_when_done -- --gin_file=gin/native/dss.gin --gin.DATASET=anli \
#       --gin.MESH_MODEL=2 --gin.INITIAL_CHECKPOINT_PATH=google/t5-v1_1-base \
#       --gin.RECORDS_DIR=gs://my-bucket/records --gin.MODEL_DIR=gs://my-bucket/runs/anli
#   launch/tpu_vm.sh watch --name=dss --zone=us-west4-a
#   launch/tpu_vm.sh create --name=dss --zone=us-west4-a --accelerator_type=v6e-8 \
#       --create_option=--service-account=trainer@my-project.iam.gserviceaccount.com
#   launch/tpu_vm.sh delete --name=dss --zone=us-west4-a
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/common.sh
. launch/common.sh
# shellcheck source=launch/tpu_slice.sh
. launch/tpu_slice.sh

read_flags() {
  while (($#)); do
    case "$1" in
      --name=*) name="${1#*=}" ;;
      --zone=*) zone="${1#*=}" ;;
      --project=*) project="${1#*=}" ;;
      --accelerator_type=*) accelerator_type="${1#*=}" ;;
      --runtime_version=*) runtime_version="${1#*=}" ;;
      --spot) create_options+=(--spot) ;;
      --restarts=*) restarts="${1#*=}" ;;
      --delete_when_done) delete_when_done=1 ;;
      --worker=*) worker="${1#*=}" ;;
      --create_option=*) create_options+=("${1#*=}") ;;
      --ssh_option=*) ssh_options+=("${1#*=}") ;;
      --dry_run) dry_run=1 ;;
      --) shift; trainer_flags=("$@"); return ;;
      -h | --help) show_help ;;
      *) fail "unknown flag $1; see launch/tpu_vm.sh --help; flags of the trainer come after --" ;;
    esac
    shift
  done
}

default_runtime() {
  case "$accelerator_type" in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    *) fail "--accelerator_type=$accelerator_type: unknown, so give --runtime_version=... too" ;;
  esac
}

# One host holds up to eight chips, or eight cores where the type counts cores.
is_single_host() {
  case "${accelerator_type##*-}" in 1 | 4 | 8) return 0 ;; *) return 1 ;; esac
}

check_model_dir() {
  local model_dir hint=''
  model_dir=$(gin_value MODEL_DIR "${trainer_flags[@]}")
  case "$model_dir" in
    gs://?*) return 0 ;;
    '') fail 'give --gin.MODEL_DIR=gs://BUCKET/... after --' ;;
  esac
  if [[ $command == run ]]; then
    ! is_single_host || return 0
    hint='; on a single host, say so: --accelerator_type=v5litepod-8'
  fi
  fail "--gin.MODEL_DIR=$model_dir: hosts share no disk, give gs://BUCKET/...$hint"
}

check_flags() {
  [[ $name ]] || fail 'give --name=..., what the slice is called'
  [[ $name =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] ||
    fail "--name=$name: use small letters, digits and hyphens"
  [[ $zone ]] || fail 'give --zone=..., such as us-west4-a'
  check_number restarts "$restarts"
  check_number worker "$worker"
  case "$command" in
    create | up)
      [[ $accelerator_type ]] || fail "$command needs --accelerator_type=..., such as v5litepod-16"
      [[ $runtime_version ]] || runtime_version=$(default_runtime) ;;
  esac
  case "$command" in
    install | up)
      [[ $dry_run ]] || git rev-parse --quiet --verify HEAD >/dev/null ||
        fail "$command copies the HEAD of a git checkout, and this is none" ;;
  esac
  case "$command" in
    run | up)
      ((${#trainer_flags[@]})) || fail 'nothing to train: give the flags of dss train after --'
      check_model_dir ;;
    *) ((!${#trainer_flags[@]})) || fail "$command takes no flags of the trainer after --" ;;
  esac
}

command="${1:-}"
case "$command" in
  create | install | run | watch | stop | delete | up) shift ;;
  -h | --help) show_help ;;
  '') fail 'give a command: create, install, run, watch, stop, delete or up; see --help' ;;
  *) fail "unknown command $command: use create, install, run, watch, stop, delete or up" ;;
esac
name='' zone='' project='' accelerator_type='' runtime_version='' restarts=5 worker=0
delete_when_done='' create_options=() ssh_options=() trainer_flags=()
read_flags "$@"
check_flags
[[ $dry_run ]] || command -v gcloud >/dev/null ||
  fail 'gcloud is not on PATH: install the Google Cloud CLI'
"slice_$command"
