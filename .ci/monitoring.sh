#!/usr/bin/env bash
# Dashboards, rules and runbook, without a cluster: whether Prometheus takes every query of every dashboard and page,
# whether each alert fires where it should and nowhere else, whether the chart scales rules as `cargo xtask rules` does, and
# whether the commands of the pages exist. That dashboards pass a linter's rules is among xtask's tests.
#
#   .ci/monitoring.sh
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
cache=${METASTORE_CACHE:-$PWD/.cache}
rules=charts/metastore/rules/metastore.rules.yaml
pages=docs/operating/runbooks

.ci/tools.sh prometheus
.ci/tools.sh helm
promtool=$cache/bin/promtool
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
. .ci/facts.sh

fact "Prometheus takes the rules" "$promtool" check rules "$rules"
fact "each alert fires where it should and nowhere else" timeout 600 "$promtool" test rules charts/tests/rules.test.yaml

# Queries of dashboards and pages, as rules, with something in place of Grafana's variables.
python3 - "$work" charts/metastore/dashboards "$pages" <<'PYTHON'
import json, pathlib, re, sys
work, dashboards, pages = map(pathlib.Path, sys.argv[1:])
def write(name, queries):
    rules = "".join(f"      - record: asked:{at}\n        expr: {json.dumps(query)}\n" for at, query in enumerate(queries))
    (work / name).write_text(f"groups:\n  - name: {name.split('.')[0]}\n    rules:\n{rules}")
asked = []
for file in sorted(dashboards.glob("*.json")):
    board = json.loads(file.read_text())
    targets = [target for panel in board["panels"] for target in panel.get("targets", [])]
    for query in [target["expr"] for target in targets] + [a["expr"] for a in board["annotations"]["list"][1:]]:
        asked.append(re.sub(r"\$(namespace|cluster|pod)", ".*", re.sub(r"\$__[a-z_]+", "5m", query)))
assert len(asked) > 100, len(asked)
write("dashboards.yaml", asked)
said = []
for file in sorted(pages.glob("*.md")):
    for block in re.findall(r"```promql\n(.*?)```", file.read_text(), re.S):
        said += block.strip().splitlines()
assert len(said) > 60, len(said)
write("pages.yaml", said)
commands = set()
for file in sorted(pages.glob("*.md")):
    text = file.read_text()
    for tool in ("metactl", "etcdctl"):
        for words in re.findall(rf"(?:^|[\s`]){tool} ([^`\n]*)", text, re.M):
            words = re.sub(r"--endpoints(=|\s)\S+\s*", "", words)
            words = [word for word in words.split() if re.fullmatch(r"[a-z-]+(=\S*)?", word)]
            names = []
            for word in words:
                if word.startswith("-"):
                    break
                names.append(word)
            options = [word.split("=")[0] for word in words if word.startswith("--")]
            if names:
                commands.add((tool, " ".join(names[:2]), " ".join(options)))
(work / "commands").write_text("".join(f"{tool}\t{names}\t{options}\n" for tool, names, options in sorted(commands)))
PYTHON
fact "Prometheus takes every query of the dashboards" "$promtool" check rules --lint=none "$work/dashboards.yaml"
fact "Prometheus takes every query of the runbook" "$promtool" check rules --lint=none "$work/pages.yaml"

# The chart does with templates what xtask does in Rust: the same rules, but for the order of what is in them.
same_rules() { # OPTIONS OF XTASK -- OPTIONS OF HELM
  local own=()
  while [[ $1 != -- ]]; do own+=("$1") && shift; done
  shift
  cargo xtask rules "${own[@]}" >"$work/xtask.yaml"
  "$cache/bin/helm" template demo charts/metastore --kube-version 1.34.0 --set monitoring.enabled=true "$@" \
    --show-only templates/prometheusrule.yaml >"$work/helm.yaml"
  python3 -c 'import sys, yaml
own, rendered = (yaml.safe_load(open(file)) for file in sys.argv[1:])
assert own["groups"] == rendered["spec"]["groups"], "they differ"' "$work/xtask.yaml" "$work/helm.yaml"
}
fact "the chart has the rules as they are" same_rules --
fact "... and scaled" same_rules --for-scale 0.05 --window-scale 0.1 --runbooks https://runbooks.example/ -- \
  --set monitoring.rules.forScale=0.05 --set monitoring.rules.windowScale=0.1 \
  --set monitoring.rules.runbookBaseUrl=https://runbooks.example/
labelled() { # every alert has the label, and its own severity all the same
  "$cache/bin/helm" template demo charts/metastore --kube-version 1.34.0 --set monitoring.enabled=true \
    --set monitoring.rules.alertLabels.team=storage --set monitoring.rules.alertLabels.severity=none \
    --show-only templates/prometheusrule.yaml >"$work/labelled.yaml"
  python3 -c 'import sys, yaml
rules = [rule for group in yaml.safe_load(open(sys.argv[1]))["spec"]["groups"] for rule in group["rules"]]
alerts = [rule["labels"] for rule in rules if "alert" in rule]
assert alerts and all(a["team"] == "storage" and a["severity"] != "none" for a in alerts), alerts
assert not any("team" in rule.get("labels", {}) for rule in rules if "record" in rule)' "$work/labelled.yaml"
}
fact "alerts have the labels they are given" labelled
fact "Prometheus takes scaled rules" "$promtool" check rules "$work/xtask.yaml"

# Commands of the pages, held to the programs, where those are built.
metactl=${CARGO_TARGET_DIR:-target}/debug/metactl
[[ -x $metactl ]] || cargo build --quiet -p metactl
exists() { # PROGRAM NAMES OPTIONS
  local program=$1 names=$2 help option
  # shellcheck disable=SC2086 # words
  help=$("$program" $names --help 2>&1) || help=$("$program" ${names%% *} --help 2>&1) || return 1
  help+=$("$program" options 2>/dev/null || "$program" --help 2>&1) # options of all commands
  for option in $3; do
    [[ $help == *"$option"* ]] || { echo "$names: no $option"; return 1; }
  done
}
while IFS=$'\t' read -r tool names options; do
  program=$metactl
  if [[ $tool == etcdctl ]]; then
    program=$cache/bin/etcdctl
    [[ -x $program ]] || .ci/tools.sh
  fi
  fact "there is $tool $names $options" exists "$program" "$names" "$options"
done <"$work/commands"

echo "monitoring: $passes facts, $failures failures"
((failures == 0))
