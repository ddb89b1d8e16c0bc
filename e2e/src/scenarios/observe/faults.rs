//! Ten faults. Each is made, is to show on the overview and to lead by its alert to a runbook page, is
//! mended, and its alert is to resolve.
//!
//! Two MetaStores have their faults at the same time, for it is the clock that this takes and not the
//! machine. The operator's comes last, together with the clock of a member: a member is only told that its
//! clock is wrong by its arguments, and the operator would put those right at once.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use client::{Client, Config, Put, RetryPolicy};
use lab::rule::Rule;
use serde_json::{Value, json};

use super::super::Cluster;
use super::super::metastore::{STEP_LIMIT, Store, system};
use super::super::pods::Etcdctl;
use super::{LOADED, MEMBERS, SMALL, variables, window};
use crate::dashboards::Query;
use crate::distance::Distance;
use crate::injection::{Injection, Victim};
use crate::prometheus::{Alert, Prometheus};
use crate::wait::{Seen, say, until};

/// The overview shows a fault within so long; three times that is a failure.
pub(super) const SHOWN_BUDGET: Duration = Duration::from_secs(30);
const SHOWN_LIMIT: Duration = Duration::from_secs(90);
/// Its alert fires, a minute being three seconds.
const FIRING_LIMIT: Duration = Duration::from_secs(90);
/// And resolves: windows of rates have to pass, and who was away has to catch up.
const RESOLVED_LIMIT: Duration = Duration::from_secs(150);
/// Name of the dashboard that is looked at first.
const OVERVIEW: &str = "metastore-overview";
/// As between two continents, where the others are in one place.
const FAR: Duration = Duration::from_millis(150);
/// What a lagging member's link carries, in bits a second: less than is written.
const THIN_BITS: u64 = 160_000;
/// How wrong a clock is.
const SKEW: &str = "3s";
/// Bytes of a value that fills the small one.
const FILL_BYTES: usize = 1 << 20;
/// Values that would fill it several times over.
const FILLS_MAX: usize = 200;
const FILL_LIMIT: Duration = Duration::from_secs(10);
/// Fill until so many writes were refused.
const REFUSED_ENOUGH: usize = 2;

/// How a panel tells of a fault: more of its series are so than were before.
#[derive(Clone, Copy, Debug)]
enum Sign {
    Above(f64),
    Below(f64),
}

impl Sign {
    fn holds(self, value: f64) -> bool {
        match self {
            Sign::Above(bound) => value > bound,
            Sign::Below(bound) => value < bound,
        }
    }
}

/// One fault, and what is to be seen of it.
struct Fault {
    name: &'static str,
    /// What is done.
    how: &'static str,
    /// Any of these leads to the right page.
    alerts: &'static [&'static str],
    /// Of the overview, and what the column's query names if it has several.
    panel: (&'static str, &'static str),
    sign: Sign,
    make: fn(&Place<'_>) -> Result<Injection>,
}

/// Where a fault is made.
struct Place<'a> {
    cluster: &'a Cluster,
    store: &'a Store<'a>,
    name: &'static str,
}

impl Place<'_> {
    /// The member that it happens to: one that follows, so that what is written goes on being written.
    fn victim(&self) -> Result<Victim> {
        Victim::find(&self.cluster.kubectl, &self.store.follower()?)
    }

    /// Packets between a member and the others go by a rule.
    fn link(&self, rule: Rule) -> Result<Injection> {
        let victim = self.victim()?.pod;
        let pods: Vec<_> = (0..MEMBERS)
            .map(|n| Victim::find(&self.cluster.kubectl, &format!("{}-{n}", self.name)))
            .collect::<Result<_>>()?;
        let place = pods.iter().position(|pod| pod.pod == victim).context("a victim among them")?;
        let addresses: Vec<_> = pods.iter().map(|pod| pod.address).collect();
        let of_victim = |from: usize, to: usize| from == place || to == place;
        let rule = |from, to| if of_victim(from, to) { rule } else { Rule::default() };
        let distance = Distance::with(&addresses, rule)?;
        Ok(Injection::new(move || {
            drop(distance);
            Ok(())
        }))
    }
}

/// What became of a fault.
pub(super) struct Outcome {
    pub(super) name: &'static str,
    pub(super) how: &'static str,
    /// Of the overview, with the metric that its column is made of.
    pub(super) panel: (&'static str, &'static str),
    /// From the fault to the panel that shows it.
    pub(super) shown: Result<Duration>,
    /// From the fault to the alert, and which.
    pub(super) fired: Result<(Duration, Alert)>,
    /// From the end of the fault to the end of the alert.
    pub(super) resolved: Result<Duration>,
    /// Others that fired meanwhile for the same MetaStore.
    pub(super) others: Vec<Alert>,
}

const OF_LOADED: [Fault; 5] = [
    Fault {
        name: "killed",
        how: "a member's process is killed, again and again",
        alerts: &["MetaStoreMemberDown"],
        panel: ("Members down", ""),
        sign: Sign::Above(0.0),
        make: |place| place.victim()?.kill(),
    },
    Fault {
        name: "far",
        how: "150 ms between a member and the others",
        alerts: &["MetaStorePeerFar"],
        panel: ("Members", "metastore_peer_srtt_seconds"),
        sign: Sign::Above(0.05),
        make: |place| place.link(Rule::of_rtt(FAR)),
    },
    Fault {
        name: "lagging",
        how: "a member's link carries less than is written",
        alerts: &["MetaStoreMemberLagging"],
        panel: ("Members", "metastore_peer_lag_entries"),
        sign: Sign::Above(100.0),
        make: |place| {
            place
                .link(Rule { rate_bits: Some(THIN_BITS), ..Rule::of_rtt(Duration::from_millis(1)) })
        },
    },
    Fault {
        name: "slow disk",
        how: "a member's disk takes four writes a second",
        alerts: &["MetaStoreDiskSlow", "MetaStoreDiskStalled"],
        panel: ("Members", "etcd_disk_wal_fsync_duration_seconds"),
        sign: Sign::Above(0.1),
        make: |place| place.victim()?.slow_disk(),
    },
    Fault {
        name: "CPU-starved",
        how: "a member gets a twentieth of a processor",
        alerts: &["MetaStoreCpuStarved"],
        panel: ("Members", "metastore_process_cpu_throttled_seconds_total"),
        sign: Sign::Above(0.5),
        make: |place| place.victim()?.starve(),
    },
];

const OF_SMALL: [Fault; 3] = [
    Fault {
        name: "stalled",
        how: "a member's process is stopped (SIGSTOP)",
        alerts: &["MetaStoreMemberStalled"],
        panel: ("Members", "metastore_peer_silent_seconds"),
        sign: Sign::Above(3.0),
        make: |place| place.victim()?.stall(),
    },
    Fault {
        name: "partitioned",
        how: "a member's packets from and to its peers are dropped",
        alerts: &["MetaStoreMemberPartitioned"],
        panel: ("Members", "metastore_peer_silent_seconds"),
        sign: Sign::Above(3.0),
        make: |place| place.victim()?.partition(),
    },
    Fault {
        name: "full",
        how: "more is written than the quota allows",
        alerts: &["MetaStoreNoSpace", "MetaStoreQuotaNearlyFull"],
        panel: ("Alarms", ""),
        sign: Sign::Above(0.0),
        make: fill,
    },
];

const OF_OPERATOR: [Fault; 2] = [
    Fault {
        name: "killed operator",
        how: "the operator's deployment is scaled to nothing",
        alerts: &["MetaStoreOperatorDown"],
        panel: ("Operator", ""),
        sign: Sign::Below(1.0),
        make: without_operator,
    },
    Fault {
        name: "clock-skewed",
        how: "a member's wall clock is 3 s ahead (a flag for tests)",
        alerts: &["MetaStoreClockSkew"],
        panel: ("Members", "metastore_peer_clock_offset_seconds"),
        sign: Sign::Above(0.5),
        make: skew,
    },
];

/// All of them.
pub(super) fn run(
    cluster: &Cluster,
    prometheus: &Prometheus,
    queries: &[Query],
    loaded: &Store<'_>,
    small: &Store<'_>,
) -> Result<Vec<Outcome>> {
    let eye = Eye { cluster, prometheus, queries };
    let loaded = Place { cluster, store: loaded, name: LOADED };
    let small = Place { cluster, store: small, name: SMALL };
    let lane = |place: &Place<'_>, faults: &[Fault]| -> Result<Vec<Outcome>> {
        let one = |fault: &Fault| -> Result<Outcome> {
            let (outcome, injection) = eye.made(place, fault)?;
            let outcome = eye.mended(place, fault, outcome, injection)?;
            place.store.settled(MEMBERS, STEP_LIMIT)?;
            Ok(outcome)
        };
        faults.iter().map(one).collect()
    };
    let (first, second) = thread::scope(|scope| {
        let second = scope.spawn(|| lane(&small, &OF_SMALL));
        let first = lane(&loaded, &OF_LOADED);
        (first, second.join().expect("no fault panics"))
    });
    let mut outcomes = first?;
    outcomes.extend(second?);
    let [operator, clock] = &OF_OPERATOR;
    let (without, gone) = eye.made(&small, operator)?;
    let (skewed, ahead) = eye.made(&small, clock)?;
    outcomes.push(eye.mended(&small, clock, skewed, ahead)?);
    outcomes.push(eye.mended(&small, operator, without, gone)?);
    small.store.settled(MEMBERS, STEP_LIMIT)?;
    Ok(outcomes)
}

/// Who looks at it.
struct Eye<'a> {
    cluster: &'a Cluster,
    prometheus: &'a Prometheus,
    queries: &'a [Query],
}

impl Eye<'_> {
    /// How many series of the panel are as the fault makes them.
    fn signs(&self, place: &Place<'_>, fault: &Fault) -> Result<usize> {
        let window = window();
        let values = variables(&self.cluster.namespace, place.name, &window);
        let (panel, column) = fault.panel;
        let queries: Vec<_> = self
            .queries
            .iter()
            .filter(|query| query.dashboard == OVERVIEW && query.panel == panel)
            .filter(|query| query.expression.contains(column))
            .collect();
        ensure!(!queries.is_empty(), "the overview has no panel {panel:?} with {column:?}");
        let mut signs = 0;
        for query in queries {
            let found = self.prometheus.query(&query.filled(&values)?)?;
            signs += found.iter().filter(|sample| fault.sign.holds(sample.value)).count();
        }
        Ok(signs)
    }

    /// Alerts that fire for a MetaStore, or for none in particular.
    fn firing(&self, place: &Place<'_>) -> Result<Vec<Alert>> {
        let mut firing = self.prometheus.firing()?;
        firing.retain(|alert| [place.name, ""].contains(&alert.cluster.as_str()));
        Ok(firing)
    }

    fn expected(&self, place: &Place<'_>, fault: &Fault) -> Result<Option<Alert>> {
        let mut firing = self.firing(place)?.into_iter();
        Ok(firing.find(|alert| fault.alerts.contains(&alert.name.as_str())))
    }

    /// Makes a fault and waits until it is seen.
    fn made(&self, place: &Place<'_>, fault: &Fault) -> Result<(Outcome, Injection)> {
        let what = |what: &str| format!("{}: {what}", fault.name);
        let quiet = until(&what("quiet before"), RESOLVED_LIMIT, || {
            Ok(match self.expected(place, fault)? {
                None => Seen::Done(()),
                Some(alert) => Seen::NotYet(format!("{} fires", alert.name)),
            })
        });
        let Fault { name, how, panel, .. } = *fault;
        if let Err(error) = quiet {
            // Somebody else's trouble: nothing can be told of this fault, and the others are worth seeing.
            let (shown, fired) = (Err(error), Err(anyhow!("{name}: not made")));
            let (resolved, others) = (Ok(Duration::ZERO), self.firing(place)?);
            let outcome = Outcome { name, how, panel, shown, fired, resolved, others };
            return Ok((outcome, Injection::new(|| Ok(()))));
        }
        let before = self.signs(place, fault)?;
        say(&format!("   {}: {}", fault.name, fault.how));
        let begun = Instant::now();
        let injection = (fault.make)(place).with_context(|| fault.name)?;
        let shown = until(&what("on the overview"), SHOWN_LIMIT, || {
            let now = self.signs(place, fault)?;
            let state = || format!("{now} series as it would be, {before} before");
            Ok(if now > before { Seen::Done(()) } else { Seen::NotYet(state()) })
        });
        let shown = shown.map(|_| begun.elapsed());
        let fired = until(&what("alert"), FIRING_LIMIT, || {
            Ok(match self.expected(place, fault)? {
                Some(alert) => Seen::Done(alert),
                None => Seen::NotYet(names(&self.firing(place)?)),
            })
        });
        let fired = fired.and_then(|(alert, _)| {
            page(&self.cluster.places.root, &alert)?;
            Ok((begun.elapsed(), alert))
        });
        let mut others = self.firing(place)?;
        others.retain(|alert| !fault.alerts.contains(&alert.name.as_str()));
        others.dedup_by(|one, other| one.name == other.name);
        let resolved = Ok(Duration::ZERO);
        Ok((Outcome { name, how, panel, shown, fired, resolved, others }, injection))
    }

    /// Mends it and waits until nobody is called for it any more.
    fn mended(
        &self,
        place: &Place<'_>,
        fault: &Fault,
        mut outcome: Outcome,
        injection: Injection,
    ) -> Result<Outcome> {
        injection.heal().with_context(|| format!("{}: mending it", fault.name))?;
        if outcome.fired.is_ok() {
            let resolved = until(&format!("{}: resolved", fault.name), RESOLVED_LIMIT, || {
                Ok(match self.expected(place, fault)? {
                    None => Seen::Done(()),
                    Some(alert) => Seen::NotYet(format!("{} fires for {}", alert.name, alert.pod)),
                })
            });
            outcome.resolved = resolved.map(|((), took)| took);
        }
        Ok(outcome)
    }
}

fn names(alerts: &[Alert]) -> String {
    let mut names: Vec<&str> = alerts.iter().map(|alert| alert.name.as_str()).collect();
    names.dedup();
    names.join(" ")
}

/// Whether the page that an alert leads to is there.
fn page(root: &Path, alert: &Alert) -> Result<()> {
    let last = alert.runbook_url.rsplit('/').next().unwrap_or_default();
    let name = last.split('#').next().unwrap_or_default().trim_end_matches(".md");
    let path = root.join("docs/operating/runbooks").join(format!("{name}.md"));
    ensure!(
        !name.is_empty() && path.is_file(),
        "{}: {:?} leads to no page ({})",
        alert.name,
        alert.runbook_url,
        path.display()
    );
    Ok(())
}

/// Writes until nothing more is taken; makes room in the end.
fn fill(place: &Place<'_>) -> Result<Injection> {
    let endpoints = place.store.endpoints("http", MEMBERS);
    let config = Config::new(&endpoints).request_timeout(FILL_LIMIT).retry(RetryPolicy::never());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // For whoever makes room.
    Etcdctl::start(place.cluster)?;
    let refused = runtime.block_on(async {
        let client = Client::new(config)?;
        let mut refused = 0;
        for n in 0..FILLS_MAX {
            let value = vec![b'x'; FILL_BYTES];
            if client.put(Put::new(format!("fill/{n:04}"), value)).await.is_err() {
                refused += 1;
                if refused == REFUSED_ENOUGH {
                    break;
                }
            }
        }
        anyhow::Ok(refused)
    })?;
    ensure!(refused == REFUSED_ENOUGH, "{refused} of {FILLS_MAX} writes were refused");
    let cluster = place.cluster.clone();
    Ok(Injection::new(move || room(&cluster, &endpoints)))
}

/// What a runbook would have somebody do.
fn room(cluster: &Cluster, endpoints: &[String]) -> Result<()> {
    let all = format!("--endpoints={}", endpoints.join(","));
    let run = |words: &[&str]| {
        cluster.kubectl.exec("etcdctl", &[&["/etcdctl", all.as_str()], words].concat())
    };
    run(&["del", "fill/", "--prefix"])?;
    let said = run(&["get", "fill/", "-w", "json"])?;
    let said: Value = serde_json::from_str(&said).context("an answer of etcdctl")?;
    let revision = said["header"]["revision"].as_i64().context("a revision")?.to_string();
    run(&["compact", &revision])?;
    run(&["defrag"])?;
    run(&["alarm", "disarm"])?;
    Ok(())
}

/// Nobody looks after MetaStores.
fn without_operator(place: &Place<'_>) -> Result<Injection> {
    let (kubectl, _) = system(place.cluster);
    let scaled =
        |replicas: &'static str| ["scale", "deployment", "--all", replicas, "--timeout=30s"];
    kubectl.run(&scaled("--replicas=0"))?;
    let words = ["delete", "pod", "--all", "--grace-period=0", "--force"];
    kubectl.run(&words)?;
    Ok(Injection::new(move || kubectl.run(&scaled("--replicas=1")).map(drop)))
}

/// One member is started anew with a clock that is wrong. Only without an operator, who would have none of
/// it; once there is one again, the template is put right, and the pod is with the next look.
fn skew(place: &Place<'_>) -> Result<Injection> {
    let kubectl = &place.cluster.kubectl;
    let name = place.name;
    let set = kubectl.json(&["statefulset", name])?;
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let mut arguments = container["args"].as_array().context("arguments")?.clone();
    let before = arguments.clone();
    arguments.extend([json!("--test-flags"), json!(format!("--test-wall-clock-offset={SKEW}"))]);
    let patch = |arguments: &[Value]| {
        json!([{
            "op": "replace", "path": "/spec/template/spec/containers/0/args", "value": arguments,
        }])
        .to_string()
    };
    let apply = |kubectl: &crate::tools::Kubectl, text: &str| {
        kubectl.run(&["patch", "statefulset", name, "--type=json", "--patch", text])
    };
    let pod = place.victim()?.pod;
    apply(kubectl, &patch(&arguments))?;
    let again = ["delete", "pod", &pod, "--grace-period=1"];
    kubectl.run_within(STEP_LIMIT, &again)?;
    let (kubectl, pod) = (kubectl.clone(), pod.clone());
    Ok(Injection::new(move || {
        apply(&kubectl, &patch(&before))?;
        let again = ["delete", "pod", &pod, "--grace-period=1"];
        kubectl.run_within(STEP_LIMIT, &again).map(drop)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_ten_faults_each_with_a_name_of_its_own() {
        let all = OF_LOADED.iter().chain(&OF_SMALL).chain(&OF_OPERATOR);
        let names: std::collections::BTreeSet<_> = all.map(|fault| fault.name).collect();
        assert_eq!(names.len(), 10);
    }

    #[test]
    fn an_alert_leads_to_a_page_by_the_last_part_of_its_address() {
        let root = tempfile::tempdir().unwrap();
        let pages = root.path().join("docs/operating/runbooks");
        std::fs::create_dir_all(&pages).unwrap();
        std::fs::write(pages.join("metastore-member-down.md"), "x").unwrap();
        let alert = |url: &str| Alert {
            name: "A".into(),
            cluster: String::new(),
            pod: String::new(),
            severity: "page".into(),
            runbook_url: url.into(),
        };
        for good in ["https://x/y/metastore-member-down.md", "https://x/metastore-member-down#a"] {
            page(root.path(), &alert(good)).unwrap();
        }
        for bad in ["", "https://x/metastore-other.md"] {
            assert!(page(root.path(), &alert(bad)).is_err(), "{bad}");
        }
    }
}
