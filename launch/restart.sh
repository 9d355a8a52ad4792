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
  stopping='' unsent='' notes=$(mktemp -d)
  trap 'stopping=1; pass_on_term' TERM
  # Ctrl-C reaches COMMAND by itself: a terminal sends it to all of a script's processes.
  trap 'stopping=1' INT
  trap 'rm -rf "$notes"' EXIT
  while true; do
    started=$SECONDS
    rm -f "$notes"/*
    # In the background, since a shell handles no signal while it waits for a foreground command.
    run_noted "$@" &
    await_noted $!
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

# Runs COMMAND and writes down its process id and its exit code: bash's own `wait` now and then
# forgets the code of a command that ends while a signal arrives.
run_noted() {
  local code=0
  trap : TERM INT
  # Bash makes what it runs in the background deaf to Ctrl-C, hence the trap.
  (trap - TERM INT; echo "$BASHPID" >"$notes/pid"; exec "$@") || code=$?
  echo "$code" >"$notes/code"
}

# Sets `code`: what run_noted, process $1, wrote down, or 137 where somebody killed it too.
await_noted() {
  until [[ -s $notes/pid ]] || ! kill -s 0 "$1" 2>/dev/null; do sleep 0.1; done
  [[ ! $unsent ]] || pass_on_term
  # A signal ends `wait` early, while the trainer is still saving.
  until [[ -s $notes/code ]] || ! kill -s 0 "$1" 2>/dev/null; do wait "$1" || true; done
  code=137
  [[ ! -s $notes/code ]] || code=$(<"$notes/code")
}

pass_on_term() {
  unsent=1
  [[ ! -s $notes/pid ]] || { unsent=''; kill -s TERM "$(<"$notes/pid")" 2>/dev/null || true; }
}
