# shellcheck shell=bash
# The trainer's contract with whoever starts it: exit code 75 means that it saved, after a SIGTERM
# or ahead of a maintenance event, and that the same command goes on from there.

# A run that lasted this long did some work: the count of restarts begins anew after it.
short_run=600

# restart_on_75 RESTARTS PAUSE COMMAND...: runs COMMAND, and again, PAUSE seconds later, as long
# as it exits with 75, at most RESTARTS times with nothing but short runs between. Returns its last
# exit code. SIGTERM is passed on to it, and is the end, as Ctrl-C is: whoever sends it to us wants
# COMMAND to stop.
restart_on_75() {
  local allowed=$1 left=$1 pause=$2 code started
  shift 2
  child='' stopping=''
  trap 'stopping=1 signalled=1; [[ ! $child ]] || kill -s TERM "$child" || true' TERM
  # Ctrl-C reaches COMMAND by itself: a terminal sends it to all of a script's processes.
  trap 'stopping=1 signalled=1' INT
  while true; do
    started=$SECONDS
    # In the background, since a shell handles no signal while it waits for a foreground command;
    # bash makes such commands deaf to Ctrl-C, hence the trap.
    (trap - INT; exec "$@") &
    child=$!
    await_child
    child=''
    if ((code != 75)) || [[ $stopping ]]; then return "$code"; fi
    ((SECONDS - started < short_run)) || left=$allowed
    if ((left == 0)); then
      ((allowed == 0)) ||
        echo "error: exit code 75 again after $allowed restarts in a short time: not restarted" >&2
      return 75
    fi
    left=$((left - 1))
    echo "exit code 75: it saved its state and is started again in $pause s" >&2
    sleep "$pause"
    [[ ! $stopping ]] || return 75
  done
}

# Sets `code`. A signal ends `wait` early, while the trainer is still saving.
await_child() {
  while true; do
    signalled=''
    code=0
    wait "$child" || code=$?
    if [[ $code == -1 ]]; then  # What bash may say of a command that Ctrl-C ended.
      code=130
      kill -s 0 "$child" 2>/dev/null || return 0
      sleep 1
    elif [[ ! $signalled ]]; then
      return 0
    fi
  done
}
