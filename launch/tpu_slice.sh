# shellcheck shell=bash
# The commands of launch/tpu_vm.sh, which sources this file and sets the flags' variables. What they
# start on the hosts is launch/tpu_worker.sh.
# shellcheck disable=SC2154  # those variables

poll=30  # seconds between two looks

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$1" >&2; }

# --- gcloud --------------------------------------------------------------------------------------

tpus() {  # GROUP VERB NAME-OR-PATHS OPTIONS: --quiet, since nobody may be there to answer
  local group=$1 verb=$2
  shift 2
  local where=("--zone=$zone" --quiet)
  [[ ! $project ]] || where+=("--project=$project")
  run gcloud compute tpus "$group" "$verb" "$@" "${where[@]}"
}

ssh_to() {  # WORKER COMMAND
  tpus tpu-vm ssh "$name" "--worker=$1" ${ssh_options[@]+"${ssh_options[@]}"} "--command=$2"
}

there=dss_jax/launch/tpu_worker.sh  # from the home directory of a host

worker_script() {  # WORKER WORDS: one level of quoting, for the login shell of the host
  local host=$1
  shift
  ssh_to "$host" "$(quoted bash "$there" "$@")"
}

# ACTIVE, SUSPENDED, ...; NOT_FOUND; or UNKNOWN when gcloud could not tell.
queue_state() {
  local answer complaint
  complaint=$(mktemp)
  if answer=$(tpus queued-resources describe "$name" '--format=value(state.state)' \
    2>"$complaint"); then
    echo "${answer:-UNKNOWN}"
  elif grep -q NOT_FOUND "$complaint"; then
    echo NOT_FOUND
  else
    cat "$complaint" >&2
    echo UNKNOWN
  fi
  rm -f "$complaint"
}

# Whether the slice was taken away. Its node can be, some time before the queue says so.
is_preempted() {
  case "$(queue_state)" in
    SUSPENDING | SUSPENDED | FAILED) return 0 ;;
    ACTIVE) ;;
    *) return 1 ;;
  esac
  case "$(tpus tpu-vm describe "$name" '--format=value(state)' 2>/dev/null | tail -n 1)" in
    PREEMPTED | TERMINATED) return 0 ;;
    *) return 1 ;;
  esac
}

# A trainer that dies with its slice can be seen before the preemption can.
is_preempted_by_now() {
  local look
  for look in 1 2 3 4; do
    ! is_preempted || return 0
    ((look == 4)) || sleep "$poll"
  done
  return 1
}

# --- create, delete ------------------------------------------------------------------------------

request() {
  tpus queued-resources create "$name" "--node-id=$name" "--accelerator-type=$accelerator_type" \
    "--runtime-version=$runtime_version" ${create_options[@]+"${create_options[@]}"}
}

# Waits until the slice is there: 0. 1: the request failed or was suspended.
wait_active() {
  local state='' last='' blind=0
  if [[ $dry_run ]]; then
    tpus queued-resources describe "$name" '--format=value(state.state)'
    return
  fi
  while true; do
    state=$(queue_state)
    [[ $state == "$last" ]] || say "queued resource $name: $state"
    last=$state
    case "$state" in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED) return 1 ;;
      UNKNOWN | NOT_FOUND | DELETING) ((++blind < 20)) || give_up "$name: $state, 20 times" ;;
      *) blind=0 ;;
    esac
    sleep "$poll"
  done
}

slice_create() {
  request
  wait_active || give_up "$name was not allocated. Why: gcloud compute tpus queued-resources \
describe $name --zone=$zone. Delete it, then create it again"
}

slice_delete() {
  tpus queued-resources delete "$name" --force
}

# --- install, run, watch, stop -------------------------------------------------------------------

no_answer="the hosts do not answer; for several hosts gcloud needs your key in an agent: \
ssh-add $HOME/.ssh/google_compute_engine"

# A host answers some time after its slice is ACTIVE.
reach() {
  local try
  for try in 1 2 3 4 5 6 7 8 9 10; do
    if ssh_to all true; then return 0; fi
    ((try == 10)) || sleep "$poll"
  done
  return 1
}

slice_install() {
  reach || give_up "$no_answer"
  copy_and_install
}

# For `if`, where a failing command does not end a function by itself: hence the &&.
copy_and_install() {
  local folder=dist/tpu
  git diff --quiet HEAD 2>/dev/null || say 'note: only what is committed is copied'
  run mkdir -p "$folder" &&
    run git archive --format=tar.gz --prefix=dss_jax/ "--output=$folder/dss_jax.tar.gz" HEAD &&
    tpus tpu-vm scp "$folder/dss_jax.tar.gz" "$name:dss_jax.tar.gz" --worker=all \
      ${ssh_options[@]+"${ssh_options[@]}"} &&
    ssh_to all "{ test ! -e $there || bash $there idle; } && \
tar -xzf dss_jax.tar.gz && bash $there install"
}

slice_run() {
  worker_script all start "--restarts=$restarts" -- "${trainer_flags[@]}"
}

slice_stop() {
  worker_script all stop
}

# What training does on a host: none, running, exited N, stopped N, lost (the host was restarted),
# or nothing when the host does not answer.
worker_status() {
  ask_status | tr -d '\r' | sed -n 's/^dss: //p' | tail -n 1 || true
}

ask_status() {
  ssh_to "$worker" "if test -e $there; then bash $there status; else echo dss: none; fi"
}

# Shows the log until training ends; sets `outcome`: a status, preempted, or deleted.
follow() {
  local blind=0
  while true; do
    worker_script "$worker" follow || true
    outcome=$(worker_status)
    case "$outcome" in
      running) blind=0; say 'connection lost; training goes on'; sleep 5 ;;
      '')
        if is_preempted; then outcome=preempted; return; fi
        if [[ $(queue_state) == @(NOT_FOUND|DELETING) ]]; then outcome=deleted; return; fi
        ((++blind < 20)) || give_up "host $worker does not answer; training may go on: watch again"
        sleep "$poll" ;;
      *) return 0 ;;
    esac
  done
}

report() {  # exits with what `outcome` means
  case "$outcome" in
    'exited 0') say 'training is done'; exit 0 ;;
    preempted) say 'preempted: the command up creates the slice again'; exit 75 ;;
    deleted) give_up "$name was deleted" ;;
    none) fail 'training was not started: use the command run' ;;
    lost) give_up 'the host was restarted while training: use the command run, it resumes' ;;
    'stopped '*) say 'training was stopped; the command run resumes'; exit 75 ;;
  esac
  worker_script all tail || true
  printf 'error: the trainer exited with %s; above, the end of every log\n' "${outcome#* }" >&2
  exit "${outcome#* }"
}

slice_watch() {
  if [[ $dry_run ]]; then
    worker_script "$worker" follow
    ask_status
    return
  fi
  follow
  report
}

# --- up ------------------------------------------------------------------------------------------

slice_up() {
  local again=0 started
  if [[ $dry_run ]]; then
    dry_up
    return
  fi
  while true; do
    allocate
    if ! begin; then
      is_preempted_by_now || give_up "$name: training could not be started, see above"
      continue
    fi
    started=$SECONDS
    follow
    case "$outcome" in
      'exited 0' | 'stopped '* | deleted) break ;;
      preempted) continue ;;
    esac
    if is_preempted_by_now; then continue; fi
    # The slice is there and wants to go on: after maintenance, or a restart of its hosts.
    [[ $outcome == 'exited 75' || $outcome == lost ]] || break
    ((SECONDS - started < 600)) || again=0
    ((++again <= restarts)) || break
    say "$outcome: training is started again"
    slice_stop || true  # on hosts that did not notice
  done
  if [[ $outcome == 'exited 0' && $delete_when_done ]]; then
    slice_delete
  elif [[ $outcome != deleted ]]; then
    say "the slice is still there, and charged: launch/tpu_vm.sh delete --name=$name --zone=$zone"
  fi
  report
}

# Starts training, unless it is under way.
begin() {
  if ! reach; then
    say "$no_answer"
    return 1
  fi
  if [[ $(worker_status 2>/dev/null) == running ]]; then
    say 'training is under way'
    return
  fi
  copy_and_install && slice_run
}

# Makes sure that there is a slice, a new one where it was preempted.
allocate() {
  local failed=0
  while true; do
    case "$(queue_state)" in
      NOT_FOUND) request ;;
      SUSPENDING | SUSPENDED | FAILED) replace ;;
      DELETING) sleep "$poll"; continue ;;
      ACTIVE) ! is_preempted || replace ;;
    esac
    if wait_active; then return; fi
    # Spot capacity comes and goes, but a request that fails thrice is wrong or out of quota.
    [[ $(queue_state) != FAILED ]] || ((++failed < 3)) ||
      give_up "$name failed three times: gcloud compute tpus queued-resources describe $name"
    sleep "$poll"
  done
}

replace() {
  local try
  say "$name was preempted or failed: it is deleted and created again"
  for try in 1 2 3 4 5 6 7 8 9 10; do
    slice_delete || true  # The try before may have done it.
    if request; then return; fi
    ((try == 10)) || sleep "$poll"
  done
  give_up "$name could not be created again"
}

dry_up() {
  slice_create
  slice_install
  slice_run
  slice_watch
  echo '# after a preemption, and then everything above again:'
  slice_delete
  if [[ $delete_when_done ]]; then
    echo '# when training is done:'
    slice_delete
  fi
}
