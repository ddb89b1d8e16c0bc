#!/usr/bin/env bash
# Clients that others wrote, against one and against three real members of a given binary: the etcd-client crate and
# python-etcd3. Builds the first and installs the second into the cache if they are not there yet.
#
#   .ci/clients.sh BIN          needs protoc and its own .proto files (Debian: protobuf-compiler,
#                               libprotobuf-dev) and python3 with venv
#
#   LOCKS   set to call the Lock and Election services too
set -euo pipefail

(($# == 1)) || { echo "usage: $0 BIN" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$(realpath "$1")
cache=${METASTORE_CACHE:-$here/../.cache}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
# shellcheck source-path=SCRIPTDIR
. "$here/start-cluster.sh"
work=$(mktemp -d)
running=""
failed=0

finish() {
  local rc=$?
  [[ -n $running ]] && cluster_stop "$running" >/dev/null 2>&1
  if ((rc == 0)); then rm -rf "$work"; else echo "kept: $work" >&2; fi
}
trap finish EXIT
trap 'exit 130' INT TERM

begun=$SECONDS
(cd "$here/clients/etcd-client" && CARGO_TARGET_DIR=$cache/clients cargo build --quiet --locked)
wants=$here/clients/python/requirements.txt venv=$cache/python
if ! cmp -s "$wants" "$venv/installed.txt"; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --requirement "$wants"
  cp "$wants" "$venv/installed.txt"
fi
echo "# both clients are there after $((SECONDS - begun)) s"

for n in 1 3; do
  running=$work/$n
  cluster_start "$bin" "$n" "$running"
  timeout 300 "$cache/clients/debug/etcd-client-session" "$CLUSTER_ENDPOINTS" || failed=1
  timeout 300 "$venv/bin/python" "$here/clients/python/session.py" "$CLUSTER_ENDPOINTS" || failed=1
  cluster_stop "$running"
  running=""
done
exit "$failed"
