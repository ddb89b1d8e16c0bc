#!/usr/bin/env bash
# Starts a cluster of N real processes (etcd or metastore: the flags are the same) on free loopback
# ports and stops it again, by the pids recorded at the start and by nothing else.
#
#   executed: .ci/start-cluster.sh start BIN N DIR [extra flags...]   prints the endpoints, leaves it running
#             .ci/start-cluster.sh stop DIR
#   sourced:  cluster_start BIN N DIR [extra flags...]; sets CLUSTER_ENDPOINTS, CLUSTER_DIR, CLUSTER_PIDS
#             cluster_stop DIR; returns non-zero if a member had to be killed
#
#             cluster_prepare DIR makes room for one more, whose number it leaves in CLUSTER_NEW: to be started with
#             cluster_member_start once the cluster has been told of it
#
# DIR holds, for member I: I.data, I.log (standard error), I.pid, I.client and I.peer (URLs), I.rc (exit code, once it has
# ended), I.state (new, or existing if it joined later), I.removed (if it is no longer a member).

#
# CLUSTER_SCHEME and CLUSTER_PEER_SCHEME (default: http) begin the URLs; CLUSTER_CURL holds what curl needs to ask for
# /health then.

CLUSTER_READY_SECONDS="${CLUSTER_READY_SECONDS:-60}" # from start to "ready to serve client requests"
CLUSTER_STOP_SECONDS="${CLUSTER_STOP_SECONDS:-20}"   # from SIGTERM to SIGKILL

# Prints one loopback port nobody listens on, below the range that outgoing connections take their ports from.
cluster_free_port() {
  local port try
  for try in $(seq 1 200); do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    [[ " ${CLUSTER_PORTS_TAKEN:-} " == *" $port "* ]] && continue
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return 0
    fi
  done
  echo "no free port found in $try tries" >&2
  return 1
}

# Starts one member of a cluster whose addresses are in DIR already: cluster_member_start DIR I [extra flags...]
cluster_member_start() {
  local dir=$1 i=$2
  shift 2
  local bin n state token initial="" j
  bin=$(cat "$dir/bin") n=$(cat "$dir/n") state=$(cat "$dir/$i.state") token=$(cat "$dir/token")
  for j in $(seq 1 "$n"); do
    [[ -e $dir/$j.removed ]] || initial+="${initial:+,}m$j=$(cat "$dir/$j.peer")"
  done
  : >>"$dir/$i.log"
  rm -f "$dir/$i.pid" "$dir/$i.rc"
  # A shell of its own waits for the process, so that its exit code is known to whoever stops it, and a kill is no news.
  # The environment can set every flag too (ETCD_NAME, ...): nothing of the caller's gets through.
  (
    env -i PATH="$PATH" HOME="${HOME:-/}" \
      "$bin" --name "m$i" --data-dir "$dir/$i.data" \
      --listen-client-urls "$(cat "$dir/$i.client")" --advertise-client-urls "$(cat "$dir/$i.client")" \
      --listen-peer-urls "$(cat "$dir/$i.peer")" --initial-advertise-peer-urls "$(cat "$dir/$i.peer")" \
      --initial-cluster "$initial" --initial-cluster-state "$state" --initial-cluster-token "$token" \
      "$@" >>"$dir/$i.log" 2>&1 &
    echo $! >"$dir/$i.pid"
    rc=0
    wait $! || rc=$?
    echo "$rc" >"$dir/$i.rc"
  ) </dev/null >/dev/null 2>&1 &
  cluster_poll 5 test -s "$dir/$i.pid"
}

# Polls: cluster_poll SECONDS COMMAND...
cluster_poll() {
  local end=$((SECONDS + $1))
  shift
  while ! "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.05
  done
}

# Waits until member I has said that it is ready and answers /health: cluster_member_wait DIR I
cluster_member_wait() {
  local dir=$1 i=$2 deadline
  deadline=$((SECONDS + CLUSTER_READY_SECONDS))
  while ((SECONDS < deadline)); do
    if [[ -e $dir/$i.rc ]]; then
      echo "member m$i ended before it was ready; the end of its log:" >&2
      tail -n 5 "$dir/$i.log" >&2
      return 1
    fi
    if grep -q 'ready to serve client requests' "$dir/$i.log" &&
      curl -fsS -m 2 ${CLUSTER_CURL:-} "$(cat "$dir/$i.client")/health" 2>/dev/null | grep -q '"health": *"true"'; then
      return 0
    fi
    sleep 0.1
  done
  echo "member m$i was not ready within $CLUSTER_READY_SECONDS s; the end of its log:" >&2
  tail -n 5 "$dir/$i.log" >&2
  return 1
}

cluster_addresses() { # DIR I STATE: chooses the addresses of one member
  local role port scheme
  for role in client peer; do
    port=$(cluster_free_port) || return 1
    CLUSTER_PORTS_TAKEN+=" $port"
    scheme=${CLUSTER_SCHEME:-http}
    if [[ $role == peer ]]; then scheme=${CLUSTER_PEER_SCHEME:-http}; fi
    echo "$scheme://127.0.0.1:$port" >"$1/$2.$role"
  done
  echo "$3" >"$1/$2.state"
}

cluster_prepare() {
  CLUSTER_NEW=$(($(cat "$1/n") + 1))
  cluster_addresses "$1" "$CLUSTER_NEW" existing || return 1
  echo "$CLUSTER_NEW" >"$1/n"
}

cluster_start() {
  local bin=$1 n=$2 dir=$3 i
  shift 3
  [[ -x $bin ]] || { echo "$bin: no such program" >&2; return 1; }
  mkdir -p "$dir"
  [[ -e $dir/bin ]] && { echo "$dir: holds a cluster already" >&2; return 1; }
  echo "$bin" >"$dir/bin"
  echo "$n" >"$dir/n"
  echo "court-$$-$RANDOM" >"$dir/token"
  CLUSTER_PORTS_TAKEN=""
  for i in $(seq 1 "$n"); do cluster_addresses "$dir" "$i" new || return 1; done
  CLUSTER_DIR=$dir CLUSTER_ENDPOINTS="" CLUSTER_PIDS=""
  for i in $(seq 1 "$n"); do
    cluster_member_start "$dir" "$i" "$@"
    CLUSTER_PIDS+="${CLUSTER_PIDS:+ }$(cat "$dir/$i.pid")"
    CLUSTER_ENDPOINTS+="${CLUSTER_ENDPOINTS:+,}$(cat "$dir/$i.client")"
  done
  for i in $(seq 1 "$n"); do
    cluster_member_wait "$dir" "$i" || { cluster_stop "$dir"; return 1; }
  done
}

# Ends member I: SIGTERM, a bounded wait, SIGKILL: cluster_member_stop DIR I
cluster_member_stop() {
  local dir=$1 i=$2 pid killed=0
  [[ -s $dir/$i.pid ]] || return 0
  pid=$(cat "$dir/$i.pid")
  if [[ ! -e $dir/$i.rc ]]; then kill -TERM "$pid" 2>/dev/null || true; fi
  if ! cluster_poll "$CLUSTER_STOP_SECONDS" test -e "$dir/$i.rc"; then
    echo "member m$i did not end within $CLUSTER_STOP_SECONDS s of SIGTERM: killed" >&2
    kill -KILL "$pid" 2>/dev/null || true
    cluster_poll 5 test -e "$dir/$i.rc" || true
    killed=1
  fi
  rm -f "$dir/$i.pid"
  return "$killed"
}

cluster_stop() {
  local dir=${1:-$CLUSTER_DIR} i pid bad=0
  # All get the signal before any is waited for: a cluster that is going away needs no elections.
  for i in $(seq 1 "$(cat "$dir/n")"); do
    [[ -s $dir/$i.pid && ! -e $dir/$i.rc ]] || continue
    pid=$(cat "$dir/$i.pid")
    kill -TERM "$pid" 2>/dev/null || true
  done
  for i in $(seq 1 "$(cat "$dir/n")"); do cluster_member_stop "$dir" "$i" || bad=1; done
  return "$bad"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -euo pipefail
  case "${1:-}" in
    start)
      (($# >= 4)) || { echo "usage: $0 start BIN N DIR [flags...]" >&2; exit 2; }
      shift
      cluster_start "$@"
      echo "$CLUSTER_ENDPOINTS"
      ;;
    stop)
      (($# == 2)) || { echo "usage: $0 stop DIR" >&2; exit 2; }
      cluster_stop "$2"
      ;;
    *)
      echo "usage: $0 start BIN N DIR [flags...] | stop DIR" >&2
      exit 2
      ;;
  esac
fi
