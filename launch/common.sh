# shellcheck shell=bash
# What the scripts of this folder share; sourced from the repository's root, after
# `set -euo pipefail`.

# A wrong flag: nothing was done.
fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

# Something that was tried did not work.
give_up() {
  printf 'error: %s\n' "$1" >&2
  exit 1
}

# The comment at the head of a script is its help.
show_help() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "launch/${0##*/}"
  exit 0
}

# Words as one line that any shell reads back as the same words.
quoted() {
  local word line='' quote=\' escaped="'\\''"
  for word in "$@"; do
    case "$word" in
      '' | *[!A-Za-z0-9_./:=,@%+-]*) word="'${word//$quote/$escaped}'" ;;
    esac
    line="$line${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# Runs a command, or with --dry_run prints it.
dry_run=''
run() {
  if [[ $dry_run ]]; then quoted "$@"; else "$@"; fi
}

# The value of --gin.NAME=VALUE among the trainer's flags: the last one counts, as in gin.
gin_value() {
  local name=$1 word value=''
  shift
  for word in "$@"; do
    [[ $word != "--gin.$name="* ]] || value=${word#*=}
  done
  value=${value#[\'\"]}
  printf '%s\n' "${value%[\'\"]}"
}

# A whole number, or an error that names the flag.
check_number() {
  case "$2" in
    '' | *[!0-9]*) fail "--$1=$2: give a whole number" ;;
  esac
}
