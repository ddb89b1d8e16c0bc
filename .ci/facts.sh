# What holds, counted: sourced by the steps that check facts one by one. They set $work, a directory of their own.
# shellcheck shell=bash

passes=0 failures=0
fact() { # NAME COMMAND...: what the command says is shown if it fails
  local name=$1
  shift
  if "$@" >"$work/said" 2>&1; then
    passes=$((passes + 1))
    echo "ok $name"
  else
    failures=$((failures + 1))
    tail -60 "$work/said"
    echo "FAIL $name"
  fi
}
