#!/usr/bin/env bash
# What launch/tpu_vm.sh runs on every host of a slice; also useful there by hand.
#
#   tpu_worker.sh install                       into ~/dss_venv, from ~/dss_jax
#   tpu_worker.sh start --restarts=N -- FLAGS   start the trainer, and return
#   tpu_worker.sh status                        none, running, exited N, stopped N or lost
#   tpu_worker.sh follow                        the log, until the trainer ends
#   tpu_worker.sh tail                          the end of the log
#   tpu_worker.sh stop                          tell the trainer to save and exit
#   tpu_worker.sh idle                          fails while it runs
#
# Log, process id and exit code are in ~/dss_run. Example, on a host:
#   bash dss_jax/launch/tpu_worker.sh tail
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/common.sh
. launch/common.sh
# shellcheck source=launch/restart.sh
. launch/restart.sh

state=$HOME/dss_run
venv=$HOME/dss_venv
mkdir -p "$state"

# The trainer holds the lock as long as one of its processes lives, whatever else goes wrong; a
# process id may belong to another one after a restart of the host.
is_running() {
  [[ -e $state/lock ]] && ! flock --shared --nonblock "$state/lock" true
}

idle() {
  ! is_running || give_up "$(hostname): training runs here; first stop it: launch/tpu_vm.sh stop"
}

install() {
  idle
  [[ -x $venv/bin/python ]] || make_venv
  "$venv/bin/python" -m pip install --quiet -e '.[tpu]'
  echo "$(hostname): installed"
}

make_venv() {
  local python
  for python in python3.12 python3.11 python3; do
    if command -v "$python" >/dev/null &&
      "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' &&
      "$python" -m venv "$venv"; then
      return
    fi
    rm -rf "$venv"  # Half made, where Debian's package for it is missing.
  done
  # The TPU runtimes that bring Python 3.10: uv fetches a newer one, without root.
  python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --seed --python 3.12 "$venv"
}

start() {
  local restarts=5
  while (($#)); do
    case "$1" in
      --restarts=*) restarts="${1#*=}" ;;
      --) shift; break ;;
      *) fail "unknown flag $1; flags of the trainer come after --" ;;
    esac
    shift
  done
  [[ -x $venv/bin/python ]] || give_up "$(hostname): not installed: launch/tpu_vm.sh install"
  exec 9>>"$state/lock"
  flock --nonblock 9 || give_up "$(hostname): training runs here already"
  rm -f "$state/exit" "$state/stop"
  # A session of its own outlives the connection; descriptor 9, the lock, is inherited.
  setsid bash launch/tpu_worker.sh supervise "$restarts" "$@" \
    >>"$state/log" 2>&1 </dev/null &
  echo $! >"$state/pid"
  echo "$(hostname): started"
}

# Hosts stop within seconds of each other, and must not meet the coordinator of the run before:
# hence the pause.
supervise() {
  local restarts=$1 code=0
  shift
  printf -- '--- %s: %s\n' "$(date)" "$(quoted dss train "$@")"
  export PYTHONUNBUFFERED=1
  restart_on_75 "$restarts" 15 "$venv/bin/python" -m dss_jax.train --distributed "$@" || code=$?
  printf -- '--- %s: exit code %s\n' "$(date)" "$code"
  echo "$code" >"$state/exit.new"
  mv "$state/exit.new" "$state/exit"
}

status() {
  local how=exited
  [[ ! -e $state/stop ]] || how=stopped
  if is_running; then
    echo 'dss: running'
  elif [[ -e $state/exit ]]; then
    echo "dss: $how $(<"$state/exit")"
  elif [[ -e $state/pid ]]; then
    echo 'dss: lost'
  else
    echo 'dss: none'
  fi
}

# Until the lock is free, not until the process is gone: in a container whose first process reaps
# nothing, a trainer that ended is a zombie for ever.
follow() {
  [[ -e $state/log ]] || return 0
  if is_running; then
    flock --shared "$state/lock" true &
    tail -n 20 -F --sleep-interval=0.2 "--pid=$!" "$state/log"
  else
    tail -n 20 "$state/log"
  fi
}

stop() {
  local second
  touch "$state/stop"
  is_running || return 0
  kill -s TERM "$(<"$state/pid")" || true
  for ((second = 0; second < 180; second++)); do
    is_running || { echo "$(hostname): stopped"; return 0; }
    sleep 1
  done
  kill -s KILL -- "-$(<"$state/pid")" || true  # Its group: the trainer and all of its processes.
  echo 137 >"$state/exit"
  echo "$(hostname): killed, after 180 s"
}

command="${1:-}"
case "$command" in
  install | start | status | follow | stop | idle | supervise) shift; "$command" "$@" ;;
  tail) echo "--- $(hostname): $(status)"; [[ ! -e $state/log ]] || tail -n 20 "$state/log" ;;
  -h | --help) show_help ;;
  *) fail "unknown command $command: use install, start, status, follow, tail or stop" ;;
esac
