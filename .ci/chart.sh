#!/usr/bin/env bash
# The chart, without a cluster: lint, what it renders for several values (charts/tests/good → charts/tests/golden), what
# it must refuse (charts/tests/bad), and facts about everything rendered (.ci/chart.py). Against a real API server it is
# tried by e2e.
#
#   .ci/chart.sh             compare
#   UPDATE=1 .ci/chart.sh    write the golden files anew; read what git says has changed
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
cache=${METASTORE_CACHE:-$PWD/.cache}
chart=charts/metastore
KUBERNETES=1.34.0 # what templates take the cluster for

.ci/tools.sh helm
helm=$cache/bin/helm

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# No settings, plugins or repositories of whoever runs this.
export HELM_CONFIG_HOME=$work/helm HELM_CACHE_HOME=$work/helm HELM_DATA_HOME=$work/helm

failures=0
ok() { echo "ok $1"; }
fail() {
  echo "FAIL $1"
  failures=$((failures + 1))
}

render() { # FILE: what the chart makes of these values
  "$helm" template demo "$chart" --namespace metastore-system --kube-version "$KUBERNETES" --values "$1"
}

for values in charts/tests/good/*.yaml; do
  name=$(basename "$values" .yaml)
  if "$helm" lint --strict --quiet --kube-version "$KUBERNETES" --values "$values" "$chart" >"$work/lint" 2>&1; then
    ok "lint: $name"
  else
    cat "$work/lint"
    fail "lint: $name"
  fi
  if ! render "$values" >"$work/$name.whole" 2>"$work/error"; then
    cat "$work/error"
    fail "render: $name"
    continue
  fi
  # Without what is long and has files of its own: the definition and the dashboards, which chart.py compares with them,
  # and the rules, which .ci/monitoring.sh does.
  awk '$0 == "---" { getline source; skip = source ~ /templates\/(crds|dashboards|prometheusrule)\.yaml$/; $0 = $0 "\n" source } !skip' \
    "$work/$name.whole" >"$work/$name.yaml"
  golden=charts/tests/golden/$name.yaml
  if [[ -n ${UPDATE:-} ]]; then
    cp "$work/$name.yaml" "$golden"
  elif diff -u "$golden" "$work/$name.yaml"; then
    ok "golden: $name"
  else
    fail "golden: $name (UPDATE=1 .ci/chart.sh writes it anew)"
  fi
done
for golden in charts/tests/golden/*.yaml; do
  [[ -e charts/tests/good/$(basename "$golden") ]] || fail "golden: $golden has no values"
done

for values in charts/tests/bad/*.yaml; do
  name=$(basename "$values" .yaml)
  message=$(sed -n '1s/^# refused: //p' "$values")
  if render "$values" >/dev/null 2>"$work/error"; then
    fail "refused: $name was taken"
  elif [[ -z $message ]] || ! grep -qF -- "$message" "$work/error"; then
    echo "expected: $message"
    cat "$work/error"
    fail "refused: $name, but not so"
  else
    ok "refused: $name"
  fi
done

# Below 1.30 the definition's rules are not understood.
if "$helm" template demo "$chart" --kube-version 1.29.0 >/dev/null 2>"$work/error"; then
  fail "Kubernetes 1.29 is refused"
else
  grep -q 'requires kubeVersion' "$work/error" && ok "Kubernetes 1.29 is refused" || fail "Kubernetes 1.29 is refused so"
fi

# The defaults as Helm reads them, and the notes, which only a cluster gets to see: two more templates, in a copy.
cp -r "$chart" "$work/chart"
echo '{{ .Values | toJson }}' >"$work/chart/templates/values.yaml"
echo '{{ include "metastore/templates/NOTES.txt" . | dict "notes" | toJson }}' >"$work/chart/templates/notes.yaml"
shown() { # NAME [OPTION...]
  "$helm" template demo "$work/chart" --namespace metastore-system --kube-version "$KUBERNETES" \
    --show-only "templates/$1.yaml" "${@:2}" | sed '/^---$/d; /^# Source: /d'
}
shown values >"$work/values.json"
shown notes | jq -r .notes >"$work/notes"
if grep -q 'kind: MetaStore' "$work/notes" && grep -q 'port-forward -n default' "$work/notes" &&
  ! grep -q WARNING "$work/notes"; then
  ok "the notes say what to do next"
else
  cat "$work/notes"
  fail "the notes say what to do next"
fi
shown notes --set crds.keep=false | grep -q 'WARNING: crds.keep is false' &&
  ok "the notes warn if MetaStores go with the release" || fail "the notes warn if MetaStores go with the release"
shown notes --set monitoring.enabled=true | grep -q 'set monitoring.rules.runbookBaseUrl' &&
  ok "the notes say that alerts want pages" || fail "the notes say that alerts want pages"
shown notes --set sample.enabled=true | grep -q 'metastore/sample' &&
  ok "the notes name the sample" || fail "the notes name the sample"

python3 .ci/chart.py "$chart" "$work/values.json" "$work"/*.whole | tee "$work/facts" || fail "facts"
passes=$(grep -c '^ok ' "$work/facts" || true)
echo "chart: $passes facts, $failures failures"
((failures == 0))
