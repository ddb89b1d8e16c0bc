#!/usr/bin/env bash
# The chart against a real API server, with etcd and nothing else: no node, no controller, no pod. Whether the API server
# takes everything that is rendered, whether the definition is really upgraded, and what stays when the release goes.
# Needs .ci/kubernetes.sh and .ci/tools.sh to have built kube-apiserver, kubectl and etcd.
#
#   .ci/chart-api.sh
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
cache=${METASTORE_CACHE:-$PWD/.cache}
bin=$cache/bin
chart=charts/metastore
namespace=metastore-system

.ci/tools.sh helm
for program in etcd kube-apiserver kubectl; do
  [[ -x $bin/$program ]] || { echo "$bin/$program is missing: .ci/kubernetes.sh and .ci/tools.sh build it" >&2; exit 1; }
done

work=$(mktemp -d)
pids=()
finish() {
  ((${#pids[@]} == 0)) || { kill "${pids[@]}" && wait "${pids[@]}"; } 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
export HELM_CONFIG_HOME=$work/helm HELM_CACHE_HOME=$work/helm HELM_DATA_HOME=$work/helm KUBECONFIG=$work/kubeconfig

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
client=$(free_port) peer=$(free_port) api=$(free_port)

"$bin/etcd" --data-dir "$work/etcd" --unsafe-no-fsync --listen-client-urls "http://127.0.0.1:$client" \
  --advertise-client-urls "http://127.0.0.1:$client" --listen-peer-urls "http://127.0.0.1:$peer" \
  --initial-advertise-peer-urls "http://127.0.0.1:$peer" --initial-cluster "default=http://127.0.0.1:$peer" \
  >"$work/etcd.log" 2>&1 &
pids+=($!)
openssl genrsa -out "$work/sa.key" 2048 2>/dev/null
openssl rsa -in "$work/sa.key" -pubout -out "$work/sa.pub" 2>/dev/null
echo "test,admin,admin,system:masters" >"$work/tokens"
"$bin/kube-apiserver" --etcd-servers "http://127.0.0.1:$client" --bind-address 127.0.0.1 --secure-port "$api" \
  --cert-dir "$work/certs" --service-account-issuer https://chart.test --service-account-key-file "$work/sa.pub" \
  --service-account-signing-key-file "$work/sa.key" --token-auth-file "$work/tokens" --authorization-mode RBAC \
  --service-cluster-ip-range 10.96.0.0/24 >"$work/api.log" 2>&1 &
pids+=($!)
cat >"$KUBECONFIG" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://127.0.0.1:$api", insecure-skip-tls-verify: true}}]
users: [{name: test, user: {token: test}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
current-context: test
YAML
kubectl() { timeout 60 "$bin/kubectl" "$@"; }
helm() { timeout 120 "$bin/helm" "$@"; }
for _ in {1..120}; do
  kubectl get --raw /readyz >/dev/null 2>&1 && ready=yes && break
  sleep 0.5
done
[[ -n ${ready:-} ]] || { tail -20 "$work/api.log"; echo "the API server does not get ready" >&2; exit 1; }

. .ci/facts.sh
eventually() { # COMMAND...: the API server takes a new definition into use a moment later
  for _ in {1..40}; do
    "$@" && return
    sleep 0.25
  done
  return 1
}
refused() { # MESSAGE COMMAND...
  local message=$1
  shift
  if "$@" >"$work/refusal" 2>&1; then
    echo "taken"
    return 1
  fi
  cat "$work/refusal"
  grep -qF -- "$message" "$work/refusal"
}

# --- what is rendered -------------------------------------------------------------------------------------------------

# Kinds of others that the chart may make; only their names matter here.
stub() { # GROUP VERSION KIND PLURAL
  kubectl apply -f - >/dev/null <<YAML
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: $4.$1}
spec:
  group: $1
  scope: Namespaced
  names: {kind: $3, plural: $4}
  versions:
    - name: $2
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
YAML
  kubectl wait --for=condition=Established --timeout=30s "crd/$4.$1" >/dev/null
}
stub monitoring.coreos.com v1 ServiceMonitor servicemonitors
stub monitoring.coreos.com v1 PodMonitor podmonitors
stub monitoring.coreos.com v1 PrometheusRule prometheusrules
stub cert-manager.io v1 Certificate certificates
stub cert-manager.io v1 Issuer issuers
for name in "$namespace" team-a team-b; do
  kubectl create namespace "$name" >/dev/null
  kubectl create serviceaccount default --namespace "$name" >/dev/null # a controller's work, and there is none
  # Pods that do not meet the standard are refused, not warned about.
  kubectl label namespace "$name" pod-security.kubernetes.io/enforce=restricted >/dev/null
done

# --- install, upgrade, uninstall ----------------------------------------------------------------------------------------

install() { helm install metastore "$1" --namespace "$namespace" --set sample.enabled=true; }
fact "helm install makes the definition and a sample in one go" install "$chart"
fact "the sample is there" kubectl get --namespace "$namespace" metastore/sample
fact "kubectl knows the short name" kubectl get --namespace "$namespace" ms/sample
fact "... and the category" bash -c "'$bin/kubectl' get all -n $namespace -o name | grep -x metastore.metastore.io/sample"

for golden in charts/tests/golden/*.yaml; do
  fact "the API server takes $golden" kubectl apply --dry-run=server --validate=strict -f "$golden"
done
for example in "$chart"/examples/*.yaml; do
  fact "the API server takes $example" kubectl apply --dry-run=server --validate=strict -f "$example"
done

account=system:serviceaccount:$namespace:metastore-operator
may() { kubectl auth can-i --quiet --as "$account" "$@"; }
may_not() { ! may "$@"; }
fact "the operator may write the status of a MetaStore anywhere" may patch metastores.metastore.io --subresource status -n team-a
fact "... and make a StatefulSet" may create statefulsets.apps -n team-a
fact "... and renew its lease" may update leases.coordination.k8s.io/metastore-operator -n "$namespace"
fact "... but no other lease" may_not update leases.coordination.k8s.io/other -n "$namespace"
fact "... nor make a MetaStore" may_not create metastores.metastore.io -n team-a
fact "... nor execute anything in a pod" may_not create pods --subresource exec -n team-a
fact "... nor bind roles" may_not create rolebindings.rbac.authorization.k8s.io -n "$namespace"
fact "... nor read nodes" may_not get nodes

kubectl annotate --namespace "$namespace" metastore/sample example.com/mine=yes >/dev/null
cp -r "$chart" "$work/newer"
python3 - "$work/newer/generated/metastores.yaml" <<'PYTHON'
import sys, yaml
definition = yaml.safe_load(open(sys.argv[1]))
spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
spec["properties"]["invented"] = {"type": "string", "default": "later"}
yaml.safe_dump(definition, open(sys.argv[1], "w"))
PYTHON
fact "a field that the definition lacks is refused" refused 'unknown field "spec.invented"' \
  bash -c "sed 's/^spec: {}/spec: {invented: x}/' $chart/examples/minimal.yaml | '$bin/kubectl' apply --validate=strict -f -"
fact "helm upgrade" helm upgrade metastore "$work/newer" --namespace "$namespace" --set sample.enabled=true
fact "... upgrades the definition: the field is there, with its default" eventually bash -c \
  "'$bin/kubectl' get -n $namespace metastore/sample -o jsonpath='{.spec.invented}' | grep -qx later"
fact "... and leaves the sample alone" bash -c \
  "'$bin/kubectl' get -n $namespace metastore/sample -o jsonpath='{.metadata.annotations.example\.com/mine}' | grep -qx yes"

fact "helm uninstall" timeout 60 "$bin/helm" uninstall metastore --namespace "$namespace"
fact "... removes the operator" refused NotFound kubectl get --namespace "$namespace" deployment/metastore-operator
fact "... and keeps the definition and every MetaStore" kubectl get --namespace "$namespace" metastore/sample
fact "installed again, the definition is taken over" install "$chart"
helm uninstall metastore --namespace "$namespace" >/dev/null
fact "a release of another name is told what is in its way" refused 'invalid ownership metadata' \
  helm install other "$chart" --namespace "$namespace"
fact "... and takes over if told to" helm install other "$chart" --namespace "$namespace" --take-ownership
helm uninstall other --namespace "$namespace" >/dev/null
fact "without the operator a MetaStore is deleted at once" \
  kubectl delete --namespace "$namespace" metastore/sample --timeout=10s
fact "the namespaced release is limited to its namespaces" \
  helm install metastore "$chart" --namespace "$namespace" --set crds.install=false --values charts/tests/good/namespaced.yaml
fact "... may act there" may create statefulsets.apps -n team-b
fact "... and nowhere else" may_not list secrets -n default

printf 'chart-api: %d facts hold, %d do not\n' "$passes" "$failures"
((failures == 0))
