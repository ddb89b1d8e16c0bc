//! The objects of whole clusters, as files to read; and what has to hold of all of them.
//! `METASTORE_GOLDENS=write cargo test -p operator --test resources` writes them anew.

use std::collections::BTreeMap;

use k8s_openapi::DeepMerge as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use operator::crd::MetaStore;
use operator::observed::Beginning;
use operator::resources::{
    APPLIED_ANNOTATION, CLUSTER_LABEL, HASH_ANNOTATION, Settings, beginning, children, differs,
    image, ordinal_of_claim_name, ordinal_of_peer_url, ordinal_of_pod_name, peer_url, pod_hash,
    possible_children, selector, template_hash, workload,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{file, root, store, to_yaml};

struct Case {
    name: &'static str,
    object: MetaStore,
    settings: Settings,
    replicas: i32,
    beginning: Beginning,
    voters: i32,
}

impl Case {
    fn workload(&self) -> StatefulSet {
        workload(&self.object, &self.settings, self.replicas, &self.beginning, None)
    }

    fn objects(&self) -> Vec<Value> {
        let mut objects = vec![serde_json::to_value(self.workload()).unwrap()];
        let children = children(&self.object, &self.settings, self.voters);
        objects.extend(children.iter().map(operator::resources::Child::value));
        objects
    }
}

fn case(name: &'static str, spec: Value) -> Case {
    let object = store("demo", spec);
    let replicas = object.spec.replicas;
    let settings = Settings {
        default_image: "registry.example:5000/metastore-server:0.1.0".to_owned(),
        ..Settings::default()
    };
    let beginning = Beginning::Found { founders: replicas };
    Case { name, object, settings, replicas, beginning, voters: replicas }
}

fn everything() -> Value {
    json!({
        "replicas": 5,
        "version": "0.2.0",
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{ "name": "pull" }],
        "storage": { "size": "100Gi", "className": "fast", "onScaleIn": "Retain", "onDelete": "Delete" },
        "resources": { "requests": { "cpu": 2, "memory": "4Gi" }, "limits": { "memory": "4Gi" } },
        "podTemplate": {
            "annotations": { "example.org/a": "1" },
            "labels": { "example.org/team": "x", "metastore.io/cluster": "not-demo" },
            "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": "disk", "operator": "In", "values": ["nvme"] },
                ] }],
            } } },
            "tolerations": [{ "key": "dedicated", "operator": "Exists", "effect": "NoSchedule" }],
            "nodeSelector": { "kubernetes.io/os": "linux" },
            "topologySpreadConstraints": [{
                "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            }],
            "priorityClassName": "system-cluster-critical",
            "securityContext": {
                "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000, "runAsNonRoot": true,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "terminationGracePeriodSeconds": 30,
        },
        "tls": { "client": { "mode": "SelfSigned" }, "peer": { "mode": "SelfSigned" } },
        "server": {
            "quota": "8Gi",
            "valueCache": "512Mi",
            "peerCompression": "Auto",
            "autoCompaction": { "mode": "revision", "retention": "10000" },
            "snapshotCount": 50000,
            "maxRequestSize": "2Mi",
            "maxTxnOps": 512,
            "maxConcurrentStreams": 1000,
            "logLevel": "debug",
        },
        "raft": {
            "heartbeatMs": 50, "electionMs": 500,
            "batch": { "maxCommands": 1, "maxWaitUs": 200 },
        },
        "monitoring": {
            "monitor": "ServiceMonitor", "labels": { "release": "prometheus" }, "interval": "15s",
        },
        "networkPolicy": { "clientLabels": { "metastore-client": "true" } },
    })
}

fn cases() -> Vec<Case> {
    let issuer = json!({ "name": "ca" });
    let mut restore = case(
        "restore",
        json!({ "restoreFrom": { "claimName": "backups", "path": "nightly/$(x).snap" } }),
    );
    (restore.replicas, restore.beginning, restore.voters) = (1, Beginning::Restore, 0);
    let mut everything = case("everything", everything());
    everything.settings.operator_namespace = Some("metastore-system".to_owned());
    let mut hibernating = case("hibernating", json!({ "hibernate": true }));
    (hibernating.replicas, hibernating.beginning) = (0, Beginning::Join { others: vec![0, 1, 2] });
    let mut growing = case("growing", json!({ "replicas": 5 }));
    (growing.replicas, growing.beginning) = (4, Beginning::Join { others: vec![0, 1, 2] });
    growing.voters = 3;
    let mut shrinking =
        case("shrinking", json!({ "replicas": 1, "monitoring": { "monitor": "PodMonitor" } }));
    (shrinking.replicas, shrinking.beginning) = (3, Beginning::Join { others: vec![0, 1, 2] });
    shrinking.voters = 3;
    vec![
        case("minimal", json!({})),
        case("one", json!({ "replicas": 1, "networkPolicy": { "enabled": false } })),
        case(
            "self-signed",
            json!({ "tls": {
                "client": { "mode": "SelfSigned", "clientAuth": true },
                "peer": { "mode": "SelfSigned" },
            } }),
        ),
        case(
            "cert-manager",
            json!({ "tls": {
                "client": { "mode": "CertManager", "clientAuth": true, "issuerRef": issuer },
                "peer": { "mode": "CertManager", "issuerRef": {
                    "name": "peers", "kind": "ClusterIssuer" } },
            } }),
        ),
        case(
            "own-secrets",
            json!({ "tls": {
                "client": { "mode": "Secret", "clientAuth": true, "secretName": "mine",
                    "operatorSecretName": "mine-operator" },
                "peer": { "mode": "Secret", "secretName": "mine-peers" },
            } }),
        ),
        restore,
        everything,
        hibernating,
        growing,
        shrinking,
    ]
}

#[test]
fn objects_are_as_the_files_say() {
    for case in cases() {
        let text: Vec<_> = case.objects().iter().map(to_yaml).collect();
        let text = text.join("---\n");
        let path = format!("operator/tests/resources/goldens/{}.yaml", case.name);
        if std::env::var("METASTORE_GOLDENS").as_deref() == Ok("write") {
            std::fs::write(root().join(&path), &text).unwrap();
        }
        assert!(file(&path) == text, "{path} (METASTORE_GOLDENS=write writes it anew)");
    }
}

/// Fails where a field is not known to the type: it would be refused, or silently dropped.
fn survives<T: Serialize + DeserializeOwned>(value: &Value) {
    let typed: T = serde_json::from_value(value.clone()).unwrap();
    let back = serde_json::to_value(&typed).unwrap();
    assert!(!differs(value, &back), "{value}\n{back}");
}

#[test]
fn objects_have_no_field_that_kubernetes_does_not_know() {
    for case in cases() {
        for object in case.objects() {
            match object["kind"].as_str().unwrap() {
                "StatefulSet" => survives::<StatefulSet>(&object),
                "Service" => survives::<Service>(&object),
                "ServiceAccount" => survives::<ServiceAccount>(&object),
                "PodDisruptionBudget" => survives::<PodDisruptionBudget>(&object),
                "NetworkPolicy" => survives::<NetworkPolicy>(&object),
                "ServiceMonitor" | "PodMonitor" | "Certificate" => {}
                other => panic!("{other}: a kind that no test knows"),
            }
        }
    }
}

#[test]
fn every_object_is_owned_labelled_and_marked() {
    for case in cases() {
        let possible = possible_children(&case.object);
        for object in case.objects() {
            let meta = &object["metadata"];
            let what = format!("{}: {} {}", case.name, object["kind"], meta["name"]);
            assert_eq!(meta["namespace"], "default", "{what}");
            assert_eq!(meta["labels"][CLUSTER_LABEL], "demo", "{what}");
            assert_eq!(meta["labels"]["app.kubernetes.io/managed-by"], "metastore-operator");
            assert!(meta["annotations"][APPLIED_ANNOTATION].is_string(), "{what}");
            let owners = meta["ownerReferences"].as_array().unwrap();
            assert_eq!(owners.len(), 1, "{what}");
            assert_eq!(owners[0]["controller"], true, "{what}");
            assert_eq!(owners[0]["uid"], json!(case.object.metadata.uid), "{what}");
            assert!(meta.get("finalizers").is_none(), "{what}");
            let known = possible.iter().any(|(resource, name)| {
                object["kind"] == *resource.kind
                    && object["apiVersion"] == *resource.api_version
                    && meta["name"] == **name
            });
            assert!(known || object["kind"] == "StatefulSet", "{what}: nobody would remove it");
        }
    }
}

/// The restricted profile of Kubernetes' pod security standards.
fn assert_restricted(pod: &Value) {
    let security = &pod["securityContext"];
    assert_eq!(security["runAsNonRoot"], true);
    assert_ne!(security["runAsUser"], 0);
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        assert!(pod.get(host).is_none(), "{host}");
    }
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        let kinds: Vec<_> =
            volume.as_object().unwrap().keys().filter(|key| *key != "name").collect();
        assert!(kinds == ["secret"] || kinds == ["persistentVolumeClaim"], "{volume}");
    }
    let init = pod["initContainers"].as_array().into_iter().flatten();
    for container in pod["containers"].as_array().unwrap().iter().chain(init) {
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["runAsNonRoot"], true);
        assert_eq!(security["capabilities"], json!({ "drop": ["ALL"] }));
    }
}

#[test]
fn pods_are_restricted_have_no_token_and_are_probed_where_no_certificate_is_asked_for() {
    for case in cases() {
        let set = serde_json::to_value(case.workload()).unwrap();
        let pod = &set["spec"]["template"]["spec"];
        assert_restricted(pod);
        assert_eq!(pod["automountServiceAccountToken"], false);
        let server = &pod["containers"][0];
        for (probe, path) in
            [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
        {
            assert_eq!(
                server[probe]["httpGet"],
                json!({ "path": path, "port": "metrics", "scheme": "HTTP" })
            );
        }
        assert_eq!(
            server["ports"][2],
            json!({ "name": "metrics", "containerPort": 2381, "protocol": "TCP" })
        );
        let seconds = |probe: &str| {
            server[probe]["periodSeconds"].as_i64().unwrap()
                * server[probe]["failureThreshold"].as_i64().unwrap()
        };
        assert!(seconds("startupProbe") >= 600, "a long log takes minutes");
        assert!(seconds("livenessProbe") >= 30, "a busy disk is no reason to kill");
        for mount in server["volumeMounts"].as_array().unwrap() {
            assert!(mount.get("subPath").is_none(), "{mount} would not follow a rotation");
            assert_eq!(mount["name"] != "data", mount["readOnly"] == true, "{mount}");
        }
    }
}

#[test]
fn members_are_never_deleted_with_their_data_by_scaling_the_set() {
    for case in cases() {
        let set = serde_json::to_value(case.workload()).unwrap();
        let spec = &set["spec"];
        assert_eq!(spec["persistentVolumeClaimRetentionPolicy"]["whenScaled"], "Retain");
        assert_eq!(spec["updateStrategy"]["type"], "OnDelete");
        assert_eq!(spec["podManagementPolicy"], "Parallel");
        assert_eq!(spec["replicas"], case.replicas);
        let labels = spec["template"]["metadata"]["labels"].as_object().unwrap();
        for (key, value) in spec["selector"]["matchLabels"].as_object().unwrap() {
            assert_eq!(labels[key], *value, "{key}");
        }
        let text: Vec<_> = spec["selector"]["matchLabels"].as_object().unwrap().iter().collect();
        let mut text: Vec<_> =
            text.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap())).collect();
        text.sort();
        assert_eq!(selector(&case.object), text.join(","));
    }
}

#[test]
fn every_flag_is_one_the_server_serves() {
    let table = file("server/src/config/flags.rs");
    for case in cases() {
        let set = case.workload();
        let container = &set.spec.unwrap().template.spec.unwrap().containers[0];
        for argument in container.args.iter().flatten() {
            let name = argument.strip_prefix("--").and_then(|flag| flag.split('=').next()).unwrap();
            let row = table.lines().find(|line| line.contains(&format!(", \"{name}\",")));
            let row = row.unwrap_or_else(|| panic!("--{name}: the server has no such flag"));
            assert!(row.contains(", Served,"), "--{name}");
        }
    }
    let restore = file("metactl/src/restore.rs");
    let set = cases().into_iter().find(|case| case.name == "restore").unwrap().workload();
    let init = set.spec.unwrap().template.spec.unwrap().init_containers.unwrap();
    for argument in init[0].args.iter().flatten().filter(|argument| argument.starts_with("--")) {
        let field = argument[2..].split('=').next().unwrap().replace('-', "_");
        assert!(restore.contains(&format!("    {field}:")), "{argument}");
    }
}

#[test]
fn how_pods_begin_is_not_in_their_hash_and_everything_else_is() {
    for case in cases() {
        let hash = pod_hash(&case.object, &case.settings);
        assert_eq!(hash.len(), 16);
        for begin in [
            Beginning::Found { founders: 1 },
            Beginning::Restore,
            Beginning::Join { others: vec![7] },
        ] {
            let set = workload(&case.object, &case.settings, 9, &begin, None);
            assert_eq!(template_hash(&set), hash, "{}", case.name);
            assert_eq!(beginning(&set), Some(begin));
        }
    }
    let base = case("base", json!({}));
    let hash = pod_hash(&base.object, &base.settings);
    for spec in [
        json!({ "version": "0.2.0" }),
        json!({ "image": "x:1" }),
        json!({ "imagePullPolicy": "Never" }),
        json!({ "raft": { "batch": { "maxCommands": 10 } } }),
        json!({ "server": { "logLevel": "warn" } }),
        json!({ "tls": { "client": { "mode": "SelfSigned" } } }),
        json!({ "tls": { "client": { "mode": "SelfSigned", "clientAuth": true } } }),
        json!({ "podTemplate": { "annotations": { "a": "b" } } }),
        json!({ "podTemplate": { "nodeSelector": { "a": "b" } } }),
        json!({ "resources": { "limits": { "memory": "1Gi" } } }),
    ] {
        assert_ne!(pod_hash(&store("demo", spec.clone()), &base.settings), hash, "{spec}");
    }
    for spec in [
        json!({ "replicas": 5 }),
        json!({ "hibernate": true }),
        json!({ "paused": true }),
        json!({ "storage": { "size": "9Gi", "onDelete": "Delete" } }),
        json!({ "monitoring": { "monitor": "PodMonitor" } }),
        json!({ "networkPolicy": { "enabled": false } }),
        json!({ "raft": { "heartbeatMs": 50, "electionMs": 500 } }),
        json!({ "autotune": { "mode": "Auto", "policy": "Latency" } }),
    ] {
        assert_eq!(pod_hash(&store("demo", spec.clone()), &base.settings), hash, "{spec}");
    }
    // Another hash from one release to the next, without a reason, restarts every cluster.
    assert_eq!(hash, "75240366d2c5e726");
}

#[test]
fn evictions_leave_a_quorum() {
    let budget = |replicas: i32, voters: i32| {
        let object = store("demo", json!({ "replicas": replicas }));
        let all = children(&object, &Settings::default(), voters);
        let budget = all.iter().find(|child| child.resource.kind == "PodDisruptionBudget");
        budget.map(|child| child.value()["spec"]["minAvailable"].as_i64().unwrap())
    };
    let table = [
        (1, 1, None),
        (1, 0, None),
        (2, 2, Some(2)),
        (3, 3, Some(2)),
        (4, 4, Some(3)),
        (5, 5, Some(3)),
        (5, 3, Some(3)),
        (3, 5, Some(3)),
        (1, 3, Some(2)),
        (9, 9, Some(5)),
    ];
    for (replicas, voters, minimum) in table {
        assert_eq!(budget(replicas, voters), minimum, "{replicas} wanted, {voters} there");
    }
}

#[test]
fn one_that_joins_finds_itself_and_all_it_can_ask() {
    let case = cases().into_iter().find(|case| case.name == "growing").unwrap();
    let set = case.workload();
    let args = set.spec.unwrap().template.spec.unwrap().containers[0].args.clone().unwrap();
    assert!(args.contains(&"--initial-cluster-state=existing".to_owned()));
    let cluster = args.iter().find_map(|flag| flag.strip_prefix("--initial-cluster=")).unwrap();
    let names: Vec<_> = cluster.split(',').map(|pair| pair.split('=').next().unwrap()).collect();
    assert_eq!(names, ["demo-0", "demo-1", "demo-2", "demo-3"]);
}

#[test]
fn the_claim_template_of_a_set_that_is_there_is_left_alone() {
    let small = case("small", json!({ "storage": { "size": "8Gi" } }));
    let live = small.workload();
    let big = store("demo", json!({ "storage": { "size": "16Gi" } }));
    let again = workload(&big, &small.settings, 3, &small.beginning, Some(&live));
    assert_eq!(
        again.spec.as_ref().unwrap().volume_claim_templates,
        live.spec.as_ref().unwrap().volume_claim_templates
    );
    assert_eq!(again.metadata.annotations, live.metadata.annotations, "nothing to apply");
    let founded = workload(&big, &small.settings, 3, &small.beginning, None);
    assert_ne!(
        founded.spec.unwrap().volume_claim_templates,
        live.spec.unwrap().volume_claim_templates
    );
}

#[test]
fn nothing_is_applied_again_to_an_object_that_others_only_added_to() {
    for case in cases() {
        for object in case.objects() {
            let mut live = object.clone();
            live["metadata"]["uid"] = json!("u");
            live["metadata"]["labels"]["somebody"] = json!("else");
            live["status"] = json!({});
            assert!(!differs(&object, &live), "{object}");
        }
        // The API server's own defaults, as far as the types can tell.
        let mut live = case.workload();
        live.merge_from(
            serde_json::from_value(json!({ "spec": { "minReadySeconds": 0 } })).unwrap(),
        );
        let live = serde_json::to_value(live).unwrap();
        assert!(!differs(&serde_json::to_value(case.workload()).unwrap(), &live));
    }
}

#[test]
fn what_is_no_longer_wanted_is_seen() {
    let with = case("with", json!({ "podTemplate": { "nodeSelector": { "a": "b" } } }));
    let without = case("without", json!({}));
    let live = serde_json::to_value(with.workload()).unwrap();
    assert!(differs(&serde_json::to_value(without.workload()).unwrap(), &live));
}

#[test]
fn ordinals_are_read_from_names_and_urls_and_from_nothing_else() {
    let demo = store("demo", json!({}));
    let settings = Settings::default();
    assert_eq!(ordinal_of_pod_name(&demo, "demo-0"), Some(0));
    assert_eq!(ordinal_of_pod_name(&demo, "demo-10"), Some(10));
    for other in ["demo", "demo-", "demo-01", "demo-+1", "demo--1", "demo-1a", "demo-1-0", "x-1"] {
        assert_eq!(ordinal_of_pod_name(&demo, other), None, "{other}");
    }
    assert_eq!(ordinal_of_claim_name(&demo, "data-demo-2"), Some(2));
    assert_eq!(ordinal_of_claim_name(&demo, "demo-2"), None);
    let url = peer_url(&demo, &settings, 7);
    assert_eq!(url, "http://demo-7.demo-peers.default.svc.cluster.local:2380");
    for url in [
        url.as_str(),
        "https://demo-7.demo-peers.default.svc.cluster.local:2380",
        "http://demo-7.demo-peers.default.svc.other.domain:2380",
        "http://demo-7.demo-peers.default.svc:2380/",
        "http://demo-7.demo-peers:2380",
    ] {
        assert_eq!(ordinal_of_peer_url(&demo, url), Some(7), "{url}");
    }
    for url in [
        "http://demo-7.demo-peers.other.svc.cluster.local:2380",
        "http://demo-7.other-peers.default.svc.cluster.local:2380",
        "http://demo-7.demo-peers.default.svc.cluster.local:2379",
        "http://demo-7.demo-peers.default.svc.cluster.local",
        "http://10.0.0.1:2380",
        "demo-7.demo-peers:2380",
        "",
    ] {
        assert_eq!(ordinal_of_peer_url(&demo, url), None, "{url}");
    }
}

#[test]
fn the_image_is_the_resource_s_own_or_the_default_under_its_version() {
    let table = BTreeMap::from([
        ("metastore-server:0.1.0", "metastore-server:9"),
        ("metastore-server", "metastore-server:9"),
        ("registry:5000/a/metastore-server", "registry:5000/a/metastore-server:9"),
        ("registry:5000/a/metastore-server:0.1.0", "registry:5000/a/metastore-server:9"),
        ("a/metastore-server:0.1.0@sha256:abc", "a/metastore-server:9"),
    ]);
    for (default, wanted) in table {
        let settings = Settings { default_image: default.to_owned(), ..Settings::default() };
        assert_eq!(image(&store("demo", json!({ "version": "9" })), &settings), wanted);
        assert_eq!(image(&store("demo", json!({})), &settings), default);
        let own = store("demo", json!({ "version": "9", "image": "own@sha256:1" }));
        assert_eq!(image(&own, &settings), "own@sha256:1");
    }
}

#[test]
fn labels_of_the_user_do_not_displace_those_pods_are_found_by() {
    let set = cases().into_iter().find(|case| case.name == "everything").unwrap().workload();
    let meta = set.spec.unwrap().template.metadata.unwrap();
    assert_eq!(meta.labels.as_ref().unwrap()[CLUSTER_LABEL], "demo");
    assert_eq!(meta.labels.unwrap()["example.org/team"], "x");
    let annotations = meta.annotations.unwrap();
    assert_eq!(annotations["example.org/a"], "1");
    assert!(annotations.contains_key(HASH_ANNOTATION));
}
