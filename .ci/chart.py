"""Facts about the chart that a golden file shows to nobody.

    chart.py CHART VALUES.json RENDERED...

VALUES.json is the chart's defaults as Helm reads them, RENDERED what `helm template` made of several values. Prints
"ok ..." for each fact that holds and "FAIL ..." for each that does not.
"""

import json
import pathlib
import re
import sys

import yaml

chart, values_file, rendered_files = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
failures = 0


def fact(name, wrong):
    """`wrong` lists what speaks against it."""
    global failures
    wrong = list(wrong)
    for what in wrong:
        print(f"FAIL {name}: {what}")
    if wrong:
        failures += 1
    else:
        print(f"ok {name}")


def named(thing):
    return f"{thing['kind']} {thing['metadata']['name']}"


rendered = {}
for file in rendered_files:
    with open(file) as text:
        rendered[pathlib.Path(file).stem] = [thing for thing in yaml.safe_load_all(text) if thing]
everything = [(case, thing) for case, things in rendered.items() for thing in things]
assert everything, "nothing was rendered"


def pods():
    for case, thing in everything:
        if thing["kind"] == "Pod":
            yield f"{case}: {named(thing)}", thing["metadata"], thing["spec"]
        elif thing["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            template = thing["spec"]["template"]
            yield f"{case}: {named(thing)}", template["metadata"], template["spec"]


# --- the "restricted" Pod Security Standard, and a little more ------------------------------------------------------


def against_restricted(spec):
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield field
    of_pod = spec.get("securityContext", {})
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}:
            yield f"volume {volume['name']}"
    for container in spec["containers"] + spec.get("initContainers", []):
        own = container.get("securityContext", {})
        name = container["name"]
        if own.get("privileged") or own.get("procMount", "Default") != "Default":
            yield f"{name}: privileged"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: allowPrivilegeEscalation"
        if own.get("runAsNonRoot", of_pod.get("runAsNonRoot")) is not True:
            yield f"{name}: runAsNonRoot"
        if own.get("runAsUser", of_pod.get("runAsUser")) == 0:
            yield f"{name}: runAsUser"
        capabilities = own.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
            yield f"{name}: capabilities"
        profile = own.get("seccompProfile", of_pod.get("seccompProfile", {}))
        if profile.get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{name}: seccompProfile"
        if any(port.get("hostPort") for port in container.get("ports", [])):
            yield f"{name}: hostPort"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{name}: readOnlyRootFilesystem"


fact("every pod meets the restricted standard and has a read-only root",
     (f"{name}: {what}" for name, _, spec in pods() for what in against_restricted(spec)))


def against_resources(spec):
    for container in spec["containers"]:
        resources = container.get("resources", {})
        if "memory" not in resources.get("limits", {}):
            yield "no limit of memory"
        if "cpu" in resources.get("limits", {}):
            yield "a limit of CPU"
        if not {"cpu", "memory"} <= set(resources.get("requests", {})):
            yield "no requests"


fact("every container has requests and a limit of memory, none of CPU",
     (f"{name}: {what}" for name, _, spec in pods() for what in against_resources(spec)))
fact("no image has a shell: commands are programs of ours",
     (f"{name}: {container['command']}" for name, _, spec in pods() for container in spec["containers"]
      if container.get("command", ["/usr/local/bin/metactl"])[0] not in ("/usr/local/bin/metactl",)))

# --- rights ---------------------------------------------------------------------------------------------------------

roles = [(case, thing) for case, thing in everything if thing["kind"] in ("Role", "ClusterRole")]
fact("no right has a wildcard",
     (f"{case}: {named(role)}: {rule}" for case, role in roles for rule in role["rules"]
      if any("*" in word for part in rule.values() for word in part)))
fact("no right is a way to more rights",
     (f"{case}: {named(role)}: {rule}" for case, role in roles for rule in role["rules"]
      if "rbac.authorization.k8s.io" in rule["apiGroups"] or {"bind", "escalate", "impersonate"} & set(rule["verbs"])
      or {"pods/exec", "serviceaccounts/token", "nodes/proxy"} & set(rule["resources"])))
fact("no rule is empty",
     (f"{case}: {named(role)}" for case, role in roles
      if not role["rules"] or not all(all(rule.values()) for rule in role["rules"])))
fact("limited to namespaces, the operator has no right in all of them",
     (named(thing) for thing in rendered["namespaced"] if thing["kind"] in ("ClusterRole", "ClusterRoleBinding")))
fact("... and a role in each",
     {"team-a", "team-b"} - {thing["metadata"]["namespace"] for thing in rendered["namespaced"]
                             if thing["kind"] == "Role" and not thing["metadata"]["name"].endswith("-lease")})


def unbound():
    for case, things in rendered.items():
        there = {(thing["kind"], thing["metadata"].get("namespace"), thing["metadata"]["name"]) for thing in things}
        for thing in things:
            if thing["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
                continue
            role = thing["roleRef"]
            where = thing["metadata"].get("namespace") if role["kind"] == "Role" else None
            if (role["kind"], where, role["name"]) not in there:
                yield f"{case}: {named(thing)} is for no role"
            for subject in thing["subjects"]:
                if case != "alone" and (subject["kind"], subject["namespace"], subject["name"]) not in there:
                    yield f"{case}: {named(thing)} is for nobody"


fact("every binding binds a role to an account that are there", unbound())

# --- how objects fit together -----------------------------------------------------------------------------------------


def selecting():
    for case, things in rendered.items():
        deployments = [thing for thing in things if thing["kind"] == "Deployment"]
        labels = deployments[0]["spec"]["template"]["metadata"]["labels"]
        ports = {port["name"]: port["containerPort"]
                 for port in deployments[0]["spec"]["template"]["spec"]["containers"][0]["ports"]}
        for thing in things:
            selector = {
                "Service": lambda spec: spec["selector"],
                "Deployment": lambda spec: spec["selector"]["matchLabels"],
                "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
                "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
            }.get(thing["kind"])
            if selector and not selector(thing["spec"]).items() <= labels.items():
                yield f"{case}: {named(thing)} selects no pod of the operator"
            if thing["kind"] == "Service" and any(port["targetPort"] not in ports for port in thing["spec"]["ports"]):
                yield f"{case}: {named(thing)}: no such port"
            if thing["kind"] == "ServiceMonitor":
                service = next(thing for thing in things if thing["kind"] == "Service")
                if not thing["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items():
                    yield f"{case}: {named(thing)} selects no service"
        test = next(thing for thing in things if thing["kind"] == "Pod")
        if deployments[0]["spec"]["selector"]["matchLabels"].items() <= test["metadata"]["labels"].items():
            yield f"{case}: the test's pod is taken for an operator"


fact("services, budgets and policies select the operator's pods, and those alone", selecting())
fact("every object is labelled as part of the release",
     (f"{case}: {named(thing)}" for case, thing in everything
      if thing["metadata"].get("labels", {}).get("app.kubernetes.io/instance") != "demo"
      or "helm.sh/chart" not in thing["metadata"]["labels"]))
fact("commonLabels are on every object",
     (named(thing) for thing in rendered["everything"] if thing["metadata"]["labels"].get("team") != "storage"))
fact("names are short enough to be labels", (named(thing) for _, thing in everything
                                             if thing["kind"] != "CustomResourceDefinition" and len(thing["metadata"]["name"]) > 63))
operators = {case: next(thing for thing in things if thing["kind"] == "Deployment") for case, things in rendered.items()}
arguments = {case: thing["spec"]["template"]["spec"]["containers"][0]["args"] for case, thing in operators.items()}
fact("namespaces reach the operator", [] if "--watch-namespaces=team-a,team-b" in arguments["namespaced"] else ["no"])
fact("without namespaces the flag is left out",
     (word for word in arguments["defaults"] if word.startswith("--watch-namespaces")))
digest = "--default-image=registry.example/a/metastore-server@sha256:" + "0123456789abcdef" * 4
fact("a digest wins over a tag", [] if digest in arguments["everything"] else [arguments["everything"]])
fact("without a lease operators do not overlap",
     [] if operators["alone"]["spec"]["strategy"]["type"] == "Recreate" else ["RollingUpdate"])

# --- the definition ---------------------------------------------------------------------------------------------------

generated = yaml.safe_load((chart / "generated/metastores.yaml").read_text())
definitions = {case: [thing for thing in things if thing["kind"] == "CustomResourceDefinition"]
               for case, things in rendered.items()}
fact("the definition is rendered as generated",
     (case for case, found in definitions.items()
      if found and (found[0]["spec"] != generated["spec"] or found[0]["metadata"]["name"] != generated["metadata"]["name"])))
fact("crds.install decides on it",
     (case for case, found in definitions.items() if len(found) != (0 if case == "alone" else 1)))
fact("helm uninstall keeps it, unless told otherwise",
     (case for case, found in definitions.items()
      if found and (found[0]["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep") == (case == "unsafe-uninstall")))
of_everything = definitions["everything"][0]["metadata"]
fact("annotations and labels can be added to it",
     [] if of_everything["annotations"].get("example.com/note") == "a: b"
     and of_everything["labels"].get("example.com/owner") == "storage" else [of_everything])

# --- monitoring -------------------------------------------------------------------------------------------------------

boards = {file.name: file.read_text().strip() for file in (chart / "dashboards").glob("*.json")}
shown = {case: {name: (thing["metadata"], text) for thing in things if thing["kind"] == "ConfigMap"
                for name, text in thing["data"].items() if name.endswith(".json")}
         for case, things in rendered.items()}
watching = {"PrometheusRule", "PodMonitor", "ServiceMonitor"}
fact("there are six dashboards", [] if len(boards) == 6 else [len(boards)])
fact("dashboards are rendered as they are",
     (name for name, text in boards.items() if shown["monitored"].get(name, ({}, ""))[1].strip() != text))
fact("... as the sidecar finds them",
     (name for name, (meta, _) in shown["monitored"].items()
      if meta["labels"].get("grafana_dashboard") != "1" or meta["annotations"] != {"grafana_folder": "MetaStore"}))
fact("... and elsewhere, linked to pages elsewhere",
     (name for name, (meta, text) in shown["everything"].items()
      if meta["namespace"] != "grafana" or "docs/operating" in text or "https://runbooks.example/metastore/" not in text
      or meta["annotations"] != {"grafana_folder": "Storage", "example.com/a": "b"}))
fact("monitoring.enabled decides on all of it",
     (f"{case}: {found}" for case, things in rendered.items()
      for found in [{thing["kind"] for thing in things} & watching | ({"dashboards"} if shown[case] else set())]
      if found != (watching | {"dashboards"} if case in ("monitored", "everything") else set())))
fact("Prometheus finds monitors and rules by their labels",
     (named(thing) for thing in rendered["everything"]
      if thing["kind"] in watching and thing["metadata"]["labels"].get("release") != "prometheus"))

# --- values, their schema, their table, the examples -----------------------------------------------------------------

schema = json.loads((chart / "values.schema.json").read_text())
defaults = json.loads(pathlib.Path(values_file).read_text())
defaults.pop("global", None)


def leaves(schema, path=()):
    for name, part in schema["properties"].items():
        if path == () and name == "global":
            continue
        if "properties" in part and "default" not in part:
            yield from leaves(part, (*path, name))
        else:
            yield (*path, name), part


def at(values, path):
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values


def differing():
    known = dict(leaves(schema))
    for path, part in known.items():
        if at(defaults, path) != part.get("default"):
            yield f"{'.'.join(path)}: {at(defaults, path)!r} in values.yaml, {part.get('default')!r} in the schema"

    def walk(values, path=()):
        for name, value in values.items():
            if (*path, name) in known:
                continue
            if not isinstance(value, dict):
                yield f"{'.'.join((*path, name))}: not in the schema"
            else:
                yield from walk(value, (*path, name))

    yield from walk(defaults)


def open_objects(part, path="values"):
    if part.get("type") == "object" and "additionalProperties" not in part and "properties" in part:
        yield path
    for name, inner in part.get("properties", {}).items():
        yield from open_objects(inner, f"{path}.{name}")


fact("values.yaml and its schema have the same values and defaults", differing())
fact("no object of values takes names it does not know", open_objects(schema))
comments = (chart / "values.yaml").read_text()
fact("every switch of values.yaml is explained above it",
     (line for before, line in zip([""] + comments.splitlines(), comments.splitlines())
      if re.match(r"\S+:.*(true|false)$", line.strip()) and line.startswith("  ")
      and not before.strip().startswith("#") and not line.strip().startswith(("enabled:", "runAs", "allow", "readOnly"))))
readme = (chart / "README.md").read_text()
fact("every value is in the README's table",
     (".".join(path) for path, _ in leaves(schema) if f"| `{'.'.join(path)}` |" not in readme))
versions = yaml.safe_load((chart / "Chart.yaml").read_text())
workspace = re.search(r'\[workspace\.package\]\nversion = "([^"]+)"', pathlib.Path("Cargo.toml").read_text()).group(1)
fact("appVersion is the workspace's version", [] if versions["appVersion"] == workspace else [versions["appVersion"]])
examples = sorted((chart / "examples").glob("*.yaml"))
fact("every example holds one MetaStore of the served version",
     (file.name for file in examples
      if [thing["apiVersion"] for thing in yaml.safe_load_all(file.read_text()) if thing["kind"] == "MetaStore"]
      != [f"{generated['spec']['group']}/{generated['spec']['versions'][0]['name']}"]))
fact("every example named in the README is there, and the reverse",
     set(re.findall(r"examples/([a-z-]+\.yaml)", readme)) - {file.name for file in examples})


def unknown(schema, value, path):
    """Fields of `value` that the definition does not have: a slip in an example."""
    if schema.get("type") == "object" and isinstance(value, dict):
        for name, inner in value.items():
            if name in schema.get("properties", {}):
                yield from unknown(schema["properties"][name], inner, f"{path}.{name}")
            elif isinstance(schema.get("additionalProperties"), dict):
                yield from unknown(schema["additionalProperties"], inner, f"{path}.{name}")
            elif not schema.get("x-kubernetes-preserve-unknown-fields"):
                yield f"{path}.{name}"
    elif schema.get("type") == "array" and isinstance(value, list):
        for number, inner in enumerate(value):
            yield from unknown(schema["items"], inner, f"{path}[{number}]")
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r}"


definition = generated["spec"]["versions"][0]["schema"]["openAPIV3Schema"].get("properties", {}).get("spec", {})
fact("examples have no field that the definition lacks",
     (f"{file.name}: {what}" for file in examples for thing in yaml.safe_load_all(file.read_text())
      if thing["kind"] == "MetaStore" for what in unknown(definition, thing["spec"], "spec")))

sys.exit(failures > 0)
