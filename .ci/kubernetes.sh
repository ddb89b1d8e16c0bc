#!/usr/bin/env bash
# Makes this machine able to run a real Kubernetes node: Kubernetes' own programs, CoreDNS and Helm from their Go
# modules, containerd, runc and the network plugins from Debian. For `cargo xtask e2e`.
#
#   .ci/kubernetes.sh            all of it
#   .ci/kubernetes.sh PROGRAM... some of the Go programs, and nothing from Debian
#
# Programs go to ${METASTORE_CACHE:-.cache}/bin, and what is there in the right version is not built again. The three
# versions below are all that is chosen here. One module holds all of it, with every dependency at the version that the
# Kubernetes release lists: so Helm and CoreDNS cost a minute instead of five, and Kubernetes is as released.
# From nothing it is eight minutes of one core.
set -euo pipefail

KUBERNETES_VERSION=1.34.4 # the newest line whose kubelet takes control groups of version 1 without being told to
HELM_VERSION=3.20.2
COREDNS_VERSION=1.12.4 # the first for this line's client library

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${METASTORE_CACHE:-$here/../.cache}
mkdir -p "$cache/bin"
cache=$(cd "$cache" && pwd)
exec 9>"$cache/kubernetes.lock" # one build at a time; the second finds what the first has built
flock 9

# --- from Debian --------------------------------------------------------------------------------------------------

missing=()
need() { # COMMAND-OR-FILE PACKAGE
  command -v "$1" >/dev/null || [[ -e $1 ]] || missing+=("$2")
}
if (($# == 0)); then
  need containerd containerd
  need runc runc
  need /usr/lib/cni/ptp containernetworking-plugins
  need iptables iptables
  need conntrack conntrack
  need socat socat # port-forward
  need ip iproute2
  need nsenter util-linux
  need mount mount
fi
if ((${#missing[@]} > 0)); then
  echo "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  # The package would start a containerd of its own where there is a systemd: the node runs its own, elsewhere.
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# --- from Go ------------------------------------------------------------------------------------------------------

declare -A versions=([helm]=$HELM_VERSION [coredns]=$COREDNS_VERSION)
for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
  versions[$name]=$KUBERNETES_VERSION
done
(($# > 0)) || set -- "${!versions[@]}"

stamps=() wanted=()
for name; do
  [[ -n ${versions[$name]:-} ]] || { echo "$name: no such program; there are: ${!versions[*]}" >&2; exit 2; }
  stamps+=("$name-${versions[$name]}")
done
for stamp in "${stamps[@]}"; do
  name=${stamp%-*}
  if [[ -e $cache/bin/.$stamp && -x $cache/bin/$name ]]; then continue; fi
  wanted+=("$name")
done
if ((${#wanted[@]} == 0)); then
  echo "${stamps[*]}: built already"
  exit
fi
command -v go >/dev/null || { echo "Go is needed to build ${wanted[*]}" >&2; exit 1; }
echo "building ${wanted[*]} ..."
start=$SECONDS

src=$cache/go/kubernetes-$KUBERNETES_VERSION
rm -rf "$src"
mkdir -p "$src/coredns" "$src/bin"
cd "$src"
export CGO_ENABLED=0
module=$(go mod download -json "k8s.io/kubernetes@v$KUBERNETES_VERSION" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')
[[ -f $module ]] || { echo "k8s.io/kubernetes@v$KUBERNETES_VERSION: no go.mod" >&2; exit 1; }
{
  printf 'module tools\n\ngo 1.26.0\n\nrequire (\n'
  printf '\t%s v%s\n' k8s.io/kubernetes "$KUBERNETES_VERSION" helm.sh/helm/v3 "$HELM_VERSION" \
    github.com/coredns/coredns "$COREDNS_VERSION"
  printf ')\n\n'
  # Its staging modules are listed at v0.0.0 and published as v0.MINOR.PATCH. Helm needs a newer pflag than the rest.
  awk -v staged="v0${KUBERNETES_VERSION#1}" '
    $2 == "v0.0.0" && $1 ~ /^k8s\.io\// { print "replace " $1 " => " $1 " " staged; next }
    $1 == "github.com/spf13/pflag" { next }
    $1 ~ /\// && $2 ~ /^v[0-9]/ { print "replace " $1 " => " $1 " " $2 }' "$module"
} >go.mod
# CoreDNS with the plugins that a cluster's Corefile names, and without those of five clouds.
cat >coredns/main.go <<'GO'
package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
)

func main() { coremain.Run() }
GO

minor=${KUBERNETES_VERSION#1.} minor=${minor%.*}
version=k8s.io/component-base/version
flags="-s -w -X $version.gitVersion=v$KUBERNETES_VERSION -X $version.gitMajor=1 -X $version.gitMinor=$minor"
flags+=" -X $version.gitTreeState=clean -X $version.gitCommit=v$KUBERNETES_VERSION"
helm=helm.sh/helm/v3
flags+=" -X $helm/internal/version.version=v$HELM_VERSION"
# What `helm template` and `helm lint` take the cluster for.
for package in chartutil lint/rules; do
  flags+=" -X $helm/pkg/$package.k8sVersionMajor=1 -X $helm/pkg/$package.k8sVersionMinor=$minor"
done

packages=()
for name in "${wanted[@]}"; do
  case $name in
    coredns) packages+=(./coredns) ;;
    helm) packages+=("$helm/cmd/helm") ;;
    *) packages+=("k8s.io/kubernetes/cmd/$name") ;;
  esac
done
# One call, so that what they share is compiled once; without debugging information, and with a compiler that
# collects its garbage less often.
GOGC=400 GOFLAGS=-mod=mod go build -buildvcs=false -trimpath -gcflags=all=-dwarf=false -ldflags "$flags" -o bin/ "${packages[@]}" \
  2> >(grep -v '^go: downloading' >&2)

for stamp in "${stamps[@]}"; do
  name=${stamp%-*}
  [[ -e bin/$name ]] || continue
  mv "bin/$name" "$cache/bin/$name"
  rm -f "$cache/bin/.$name"-*
  touch "$cache/bin/.$stamp"
done
echo "${wanted[*]}: built in $((SECONDS - start)) s"
