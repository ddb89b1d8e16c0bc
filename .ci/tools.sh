#!/usr/bin/env bash
# Builds etcd's own programs from their Go modules: etcd, the oracle; etcdctl, the client that has to work unchanged;
# etcdutl. With the argument "load" also etcd's load tool, as "benchmark", for measuring side by side. With the argument
# "helm" that alone; with "prometheus" that and promtool alone, without the page for browsers.
#
#   .ci/tools.sh [load|helm|prometheus]
#
# They go to ${METASTORE_CACHE:-.cache}/bin, and what is there in the right version is not built again. The module
# versions below are all that is chosen here: their own go.mod files fix the rest, and Go's checksums the contents.
set -euo pipefail

ETCD_VERSION=3.7.3
LOAD_VERSION=3.6.8 # the load tool is in etcd's root module, which has no release with 3.7
PROMETHEUS_VERSION=3.15.0 # as a module v0.315.0

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${METASTORE_CACHE:-$here/../.cache}
mkdir -p "$cache/bin"
cache=$(cd "$cache" && pwd)
exec 9>"$cache/tools.lock" # one build at a time; the second finds what the first has built
flock 9

# build NAME VERSION PACKAGE: makes bin/NAME of it
build() {
  local name=$1 version=$2 package=$3 start=$SECONDS
  local src=$cache/go/$name-$version stamp=$cache/bin/.$name-$version
  if [[ -e $stamp && -x $cache/bin/$name ]]; then
    echo "$name $version: built already"
    return
  fi
  command -v go >/dev/null || { echo "Go is needed to build $name" >&2; return 1; }
  echo "$name $version: building ..."
  mkdir -p "$src"
  cat >"$src/go.mod" <<MOD
module tools

go 1.25.0
MOD
  (
    cd "$src"
    go get -tool "$package@v$version" 2>&1 | grep -v '^go: \(downloading\|added\|upgraded\)' >&2 || true
    CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$cache/bin/$name" "$package"
  )
  touch "$stamp"
  echo "$name $version: built in $((SECONDS - start)) s"
}

# build_prometheus: bin/prometheus and bin/promtool, which share nearly all of what they are made of. Of the ways to find
# targets only Kubernetes' own and files are in. From nothing it is four minutes of one core.
build_prometheus() {
  local module=github.com/prometheus/prometheus version=$PROMETHEUS_VERSION start=$SECONDS
  local major=${version%%.*} rest=${version#*.} src=$cache/go/prometheus-$version stamp=$cache/bin/.prometheus-$version
  if [[ -e $stamp && -x $cache/bin/prometheus && -x $cache/bin/promtool ]]; then
    echo "prometheus $version: built already"
    return
  fi
  command -v go >/dev/null || { echo "Go is needed to build prometheus" >&2; return 1; }
  local tag
  tag=v0.$(printf '%d%02d' "$major" "${rest%%.*}").${rest#*.}
  echo "prometheus $version: building ..."
  rm -rf "$src"
  mkdir -p "$src/bin"
  printf 'module tools\n\ngo 1.25.0\n' >"$src/go.mod"
  (
    cd "$src"
    go get -tool "$module/cmd/prometheus@$tag" "$module/cmd/promtool@$tag" 2>&1 |
      grep -v '^go: \(downloading\|added\|upgraded\)' >&2 || true
    CGO_ENABLED=0 GOGC=400 go build -buildvcs=false -trimpath -gcflags=all=-dwarf=false \
      -tags remove_all_sd,enable_kubernetes_sd \
      -ldflags "-s -w -X github.com/prometheus/common/version.Version=$version" \
      -o bin/ "$module/cmd/prometheus" "$module/cmd/promtool"
  )
  mv "$src/bin/prometheus" "$src/bin/promtool" "$cache/bin/"
  touch "$stamp"
  echo "prometheus $version: built in $((SECONDS - start)) s"
}

if [[ ${1:-} == prometheus ]]; then
  build_prometheus
  exit
fi
if [[ ${1:-} == helm ]]; then
  exec "$here/kubernetes.sh" helm # which shares most of what it is made of
fi
build etcd "$ETCD_VERSION" go.etcd.io/etcd/server/v3
build etcdctl "$ETCD_VERSION" go.etcd.io/etcd/etcdctl/v3
build etcdutl "$ETCD_VERSION" go.etcd.io/etcd/etcdutl/v3
if [[ ${1:-} == load ]]; then
  build benchmark "$LOAD_VERSION" go.etcd.io/etcd/v3/tools/benchmark
fi
