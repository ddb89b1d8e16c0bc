//! The operator, installed as the README says, and MetaStores as users make them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::{Config, Tls};
use serde_json::{Value, json};

use super::Cluster;
use crate::tools::{Helm, Kubectl};
use crate::wait::{Seen, say, until};
use crate::writer::Writer;

/// Namespace and release of the operator.
pub(super) const SYSTEM: &str = "metastore-system";
pub(super) const RELEASE: &str = "metastore";
/// User that the operator is for the API server.
pub(super) const OPERATOR_USER: &str = "system:serviceaccount:metastore-system:metastore-operator";
/// From the resource to ready members, images present: the budget; three times that is a failure.
pub(super) const FOUND_BUDGET: Duration = Duration::from_secs(60);
/// For one member to come, go or be replaced, on a machine that is busy with other things.
pub(super) const STEP_LIMIT: Duration = Duration::from_secs(180);
/// A planned step may keep a client from writing so long.
pub(super) const PLANNED_BUDGET: Duration = Duration::from_secs(1);
/// Three election timeouts.
pub(super) const LEADER_LOST_BUDGET: Duration = Duration::from_secs(3);
/// For the operator to start.
const OPERATOR_LIMIT: Duration = Duration::from_secs(90);

/// Whether this run has installed the operator.
static OWN: AtomicBool = AtomicBool::new(false);

/// Where the chart is.
pub(super) fn chart(cluster: &Cluster) -> String {
    cluster.places.root.join("charts/metastore").display().to_string()
}

/// In the operator's namespace.
pub(super) fn system(cluster: &Cluster) -> (Kubectl, Helm) {
    (cluster.kubectl.namespace(SYSTEM), Helm::new(&cluster.places, SYSTEM))
}

/// `helm install`, unless that was done; answers with how long it took.
pub(super) fn install(cluster: &Cluster) -> Result<Duration> {
    let begun = Instant::now();
    let (kubectl, helm) = system(cluster);
    if helm.try_run(&["status", RELEASE])?.status.success() {
        if OWN.load(Ordering::Relaxed) {
            return Ok(begun.elapsed());
        }
        // Of an earlier run, perhaps with another image under the same name.
        helm.run(&["uninstall", RELEASE, "--wait"])?;
    }
    OWN.store(true, Ordering::Relaxed);
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "name": SYSTEM,
            "labels": { "pod-security.kubernetes.io/enforce": "restricted" },
        },
    });
    kubectl.apply(&namespace.to_string())?;
    // What a cluster of this size can wait for, as few seconds as possible.
    let wait = format!("--timeout={}s", OPERATOR_LIMIT.as_secs());
    let spread = "extraEnv[0].name=CERTIFICATE_SPREAD_SECONDS,extraEnv[0].value=20";
    let path = chart(cluster);
    let values = ["--set-string", spread];
    let words = [&["install", RELEASE, path.as_str(), "--wait", wait.as_str()], &values[..]];
    helm.run(&words.concat())?;
    Ok(begun.elapsed())
}

/// Deletes the operator's pod without a word, and waits for the next.
pub(super) fn kill_operator(cluster: &Cluster) -> Result<()> {
    let (kubectl, _) = system(cluster);
    let selector = "app.kubernetes.io/name=metastore-operator";
    let words = ["delete", "pod", "--selector", selector, "--grace-period=0", "--force"];
    kubectl.run_within(STEP_LIMIT, &words).map(drop)
}

/// A load on three members, from when it is under way.
pub(super) fn load(config: &Config, endpoints: &[String]) -> Result<Writer> {
    const WORKERS: usize = 6;
    const WRITES_BEFORE: usize = 200;
    let writer = Writer::start(config, endpoints, "writer/", WORKERS)?;
    writer.has_written(WRITES_BEFORE, STEP_LIMIT)?;
    Ok(writer)
}

/// One MetaStore.
pub(super) struct Store<'a> {
    cluster: &'a Cluster,
    name: &'static str,
}

/// What has to be so for a MetaStore to be settled: see [`Store::settled`].
fn unsettled(object: &Value, members: usize) -> Option<String> {
    let status = &object["status"];
    let wanted = format!("{members}/{members}");
    let condition = |kind: &str| {
        let all = status["conditions"].as_array().into_iter().flatten();
        let mut one = all.filter(|one| one["type"] == kind);
        one.next().map(|one| one["status"] == "True")
    };
    let roles: Vec<_> = status["members"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|member| member["role"].as_str().unwrap_or("?"))
        .collect();
    let voters = roles.iter().filter(|role| ["leader", "voter"].contains(role)).count();
    let good = object["metadata"]["generation"] == status["observedGeneration"]
        && status["ready"] == wanted.as_str()
        && status["operation"].is_null()
        && condition("Available") == Some(true)
        && condition("Progressing") != Some(true)
        && condition("Degraded") != Some(true)
        && voters == members
        && roles.len() == members;
    let operation = &status["operation"];
    let field = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    (!good).then(|| {
        format!(
            "ready {}, {} ({} {} {}), members {}",
            field(&status["ready"]),
            field(&status["reason"]),
            field(&operation["kind"]),
            field(&operation["phase"]),
            field(&operation["member"]),
            roles.join(" ")
        )
    })
}

impl<'a> Store<'a> {
    /// Makes it.
    pub(super) fn make(cluster: &'a Cluster, name: &'static str, spec: &Value) -> Result<Self> {
        let object = json!({
            "apiVersion": "metastore.io/v1alpha1", "kind": "MetaStore",
            "metadata": { "name": name }, "spec": spec,
        });
        cluster.kubectl.apply(&object.to_string())?;
        Ok(Store { cluster, name })
    }

    pub(super) fn object(&self) -> Result<Value> {
        self.cluster.kubectl.json(&["metastore", self.name])
    }

    /// Changes its spec.
    pub(super) fn change(&self, spec: &Value) -> Result<()> {
        let patch = json!({ "spec": spec }).to_string();
        let words = ["patch", "metastore", self.name, "--type=merge", "--patch", &patch];
        self.cluster.kubectl.run(&words).map(drop)
    }

    /// What the API server says to a change that it has to refuse.
    pub(super) fn refused(&self, spec: &Value) -> Result<String> {
        let patch = json!({ "spec": spec }).to_string();
        let words = ["patch", "metastore", self.name, "--type=merge", "--patch", &patch];
        let output = self.cluster.kubectl.try_run(&words, "")?;
        ensure!(!output.status.success(), "{patch} was accepted");
        Ok(output.stderr)
    }

    /// Waits until so many members vote and serve, nothing is under way, and the operator has seen the
    /// latest spec; answers with how long it took.
    pub(super) fn settled(&self, members: usize, limit: Duration) -> Result<Duration> {
        let what = format!("{} settled with {members}", self.name);
        let ((), took) = until(&what, limit, || {
            Ok(match unsettled(&self.object()?, members) {
                None => Seen::Done(()),
                Some(state) => Seen::NotYet(state),
            })
        })?;
        Ok(took)
    }

    /// Waits until its status is as wanted.
    pub(super) fn status_is(
        &self,
        what: &str,
        limit: Duration,
        is: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let (found, _) = until(what, limit, || {
            let object = self.object()?;
            let status = &object["status"];
            Ok(if is(status) {
                Seen::Done(status.clone())
            } else {
                Seen::NotYet(format!("{} {}", status["reason"], status["operation"]))
            })
        })?;
        Ok(found)
    }

    /// Ids of the members by name.
    pub(super) fn ids(&self) -> Result<Vec<(String, String)>> {
        let object = self.object()?;
        let members = object["status"]["members"].as_array().context("no members")?.clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(members.iter().map(|one| (text(&one["name"]), text(&one["id"]))).collect())
    }

    pub(super) fn id_of(&self, pod: &str) -> Result<String> {
        let ids = self.ids()?;
        let found = ids.into_iter().find(|(name, _)| name == pod);
        found.map(|(_, id)| id).with_context(|| format!("{pod} is no member"))
    }

    /// The leader's pod.
    pub(super) fn leader(&self) -> Result<String> {
        let object = self.object()?;
        Ok(object["status"]["leader"].as_str().context("no leader")?.to_owned())
    }

    /// A pod that does not lead.
    pub(super) fn follower(&self) -> Result<String> {
        let leader = self.leader()?;
        let ids = self.ids()?;
        let found = ids.into_iter().map(|(name, _)| name).find(|name| *name != leader);
        found.context("no follower")
    }

    /// Client endpoints by pod.
    pub(super) fn endpoints(&self, scheme: &str, members: usize) -> Vec<String> {
        let (name, namespace) = (self.name, &self.cluster.namespace);
        let one = |n| format!("{scheme}://{name}-{n}.{name}-peers.{namespace}.svc:2379");
        (0..members).map(one).collect()
    }

    /// The endpoint of the service.
    pub(super) fn service(&self, scheme: &str) -> String {
        format!("{scheme}://{}.{}.svc:2379", self.name, self.cluster.namespace)
    }

    /// For a client with the certificate that the operator makes for users.
    pub(super) fn tls_config(&self, endpoints: &[String]) -> Result<Config> {
        let file = |name: &str| self.secret_file("client-tls", name);
        let tls = Tls::new(file("ca.crt")?).identity(file("tls.crt")?, file("tls.key")?);
        Ok(Config::new(endpoints).tls(tls))
    }

    /// A file of one of its Secrets.
    pub(super) fn secret_file(&self, suffix: &str, file: &str) -> Result<Vec<u8>> {
        let secret = format!("{}-{suffix}", self.name);
        let data = self.cluster.kubectl.json(&["secret", &secret])?["data"].take();
        let text = data[file].as_str().with_context(|| format!("{secret}: no {file}"))?;
        STANDARD.decode(text).with_context(|| format!("{secret}: {file}"))
    }

    /// Deletes it and waits until it is gone, which nothing may hold up.
    pub(super) fn delete(&self) -> Result<()> {
        let words = ["delete", "metastore", self.name, "--timeout=60s"];
        self.cluster.kubectl.run_within(Duration::from_secs(70), &words).map(drop)
    }
}

/// A line on a figure beside its budget.
pub(super) fn within_budget(what: &str, took: Duration, budget: Duration) -> Result<()> {
    let (took_s, budget_s) = (took.as_secs_f64(), budget.as_secs_f64());
    ensure!(took <= budget * 3, "{what}: {took_s:.1} s, more than three times {budget_s:.0} s");
    let over = if took > budget { " (over budget)" } else { "" };
    say(&format!("ok {what}: {took_s:.1} s of {budget_s:.0} s{over}"));
    Ok(())
}
