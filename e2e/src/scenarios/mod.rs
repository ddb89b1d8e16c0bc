//! The scenarios, and how they are run.
//!
//! Outside the node a run builds the images and loads them; then it becomes a process inside, where pods
//! and services have addresses. Each scenario has a Kubernetes namespace of its own, under the strictest
//! pod security standard. What holds is printed as `ok SCENARIO: fact`; the first thing that does not is
//! the scenario's end, with events and logs of its namespace in the log directory.

mod faults;
mod install;
mod many;
mod metastore;
mod node;
mod observe;
mod pods;
mod restore;
mod roll;
mod scale;
mod tls;
mod tune;
mod uninstall;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use client::Config;
use serde_json::json;

use crate::places::{NODE_DIR, Places};
use crate::tools::{Helm, Kubectl};
use crate::wait::say;
use crate::writer::Written;
use crate::{command, image, lifecycle};

/// The argument that makes a process run scenarios inside.
pub const INSIDE_ARGUMENT: &str = "run-inside";
/// Images that scenarios may use, beside [`image::ETCDCTL_IMAGE`].
pub const SERVER_IMAGE: &str = concat!("metastore-server:", env!("CARGO_PKG_VERSION"));
/// For programs to be compiled from nothing.
const IMAGES_LIMIT: Duration = Duration::from_secs(1500);
/// For a namespace with pods and volumes to go.
const DELETE_LIMIT: Duration = Duration::from_secs(120);

/// One story, told by assertions.
struct Scenario {
    name: &'static str,
    /// What it shows, for the list.
    shows: &'static str,
    run: fn(&Cluster) -> Result<()>,
}

const ALL: [Scenario; 11] = [
    Scenario {
        name: "node",
        shows: "the node itself: three members from plain manifests, storage, names, services, pod security",
        run: node::run,
    },
    Scenario {
        name: "install",
        shows: "helm install, a MetaStore, etcdctl, bad specs; no writes while nothing changes",
        run: install::run,
    },
    Scenario {
        name: "scale",
        shows: "1, 3, 5, 3, 1 members under a writer, the operator killed on the way",
        run: scale::run,
    },
    Scenario {
        name: "faults",
        shows: "the leader's pod, a volume, a member removed by hand; sleeping and waking",
        run: faults::run,
    },
    Scenario {
        name: "roll",
        shows: "an option changed under a writer; an image that is not there",
        run: roll::run,
    },
    Scenario {
        name: "tune",
        shows: "timing follows the network, down, up and down again, the operator killed; values by hand",
        run: tune::run,
    },
    Scenario {
        name: "tls",
        shows: "mutual TLS, authorities and certificates rotated under a writer",
        run: tls::run,
    },
    Scenario {
        name: "restore",
        shows: "a new cluster from a snapshot file on a volume",
        run: restore::run,
    },
    Scenario {
        name: "many",
        shows: "ten MetaStores at rest: memory, CPU and writes of the operator",
        run: many::run,
    },
    Scenario {
        name: "observe",
        shows: "a real Prometheus: every panel of every dashboard, every rule, ten faults and their alerts",
        run: observe::run,
    },
    Scenario {
        name: "uninstall",
        shows: "helm upgrade with another definition, helm uninstall, deletion policies",
        run: uninstall::run,
    },
];

/// What a scenario has at hand.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Where programs are.
    pub places: Places,
    /// In the scenario's own namespace.
    pub kubectl: Kubectl,
    /// For releases in that namespace.
    pub helm: Helm,
    /// That namespace.
    pub namespace: String,
    name: &'static str,
}

impl Cluster {
    /// What a writer was promised is there, and is so as a fact.
    pub fn kept(&self, written: &Written, config: &Config) -> Result<()> {
        let count = written.verify(config)?;
        let (failures, last) = written.failures();
        self.ok(&format!("all {count} acknowledged writes are there ({failures} failed: {last})"));
        Ok(())
    }

    /// A fact that holds.
    pub fn ok(&self, fact: &str) {
        say(&format!("ok {}: {fact}", self.name));
    }
}

/// From outside: images, then inside.
///
/// `--images DIR` takes the archives that `cargo xtask image` wrote there before, instead of writing them.
pub fn run(places: &Places, arguments: &[String]) -> Result<ExitCode> {
    if arguments.iter().any(|word| word == "--list") {
        ALL.iter().for_each(|scenario| say(&format!("{:<12} {}", scenario.name, scenario.shows)));
        return Ok(ExitCode::SUCCESS);
    }
    let mut names = Vec::new();
    let mut images = None;
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--images" => images = Some(PathBuf::from(rest.next().context("--images: where?")?)),
            option if option.starts_with('-') => bail!("run: no option {option}"),
            _ => names.push(word.clone()),
        }
    }
    chosen(&names)?;
    let mut words = lifecycle::enter(places)?;
    load_images(places, images)?;
    let own = std::env::current_exe().context("the path of this program")?;
    words.push(own.to_str().context("the program's path is not UTF-8")?.to_owned());
    words.push(INSIDE_ARGUMENT.to_owned());
    words.extend(names);
    let cache = places.cache.display().to_string();
    Err(lifecycle::become_program(&words, &[("METASTORE_CACHE", cache)]))
}

fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>> {
    let all = || ALL.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
    let find = |name: &String| {
        let found = ALL.iter().find(|scenario| scenario.name == name);
        found.with_context(|| format!("{name}: no such scenario; there are: {}", all()))
    };
    match names {
        [] => Ok(ALL.iter().collect()),
        names => names.iter().map(find).collect(),
    }
}

/// Those of the release programs, and etcdctl.
fn load_images(places: &Places, written: Option<PathBuf>) -> Result<()> {
    let begun = Instant::now();
    let own = places.cache.join("images");
    fs::create_dir_all(&own).with_context(|| own.display().to_string())?;
    let programs = match written {
        Some(dir) => dir,
        None => {
            say("building the images of the release programs ...");
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = Command::new(cargo);
            build.current_dir(&places.root).args(["xtask", "image", "--out"]).arg(&own);
            command::run_well(&mut build, b"", IMAGES_LIMIT)?;
            own.clone()
        }
    };
    let etcdctl = own.join("etcdctl.tar");
    image::write_etcdctl(&own.join("work"), &places.program("etcdctl"), &etcdctl)?;
    let mut archives = vec![etcdctl];
    for entry in fs::read_dir(&programs).with_context(|| programs.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("metastore-") && name.ends_with(".tar") {
            archives.push(path);
        }
    }
    for archive in &archives {
        lifecycle::load(places, archive)?;
    }
    say(&format!("images ready after {:.1} s", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// Inside the node.
pub fn run_inside(places: &Places, names: &[String]) -> Result<ExitCode> {
    let mut failed = Vec::new();
    let mut table = String::new();
    for scenario in chosen(names)? {
        let begun = Instant::now();
        say(&format!("--- {}: {}", scenario.name, scenario.shows));
        let verdict = match one(places, scenario) {
            Ok(()) => "ok",
            Err(error) => {
                say(&format!("FAIL {}: {error:#}", scenario.name));
                failed.push(scenario.name);
                "FAILED"
            }
        };
        let seconds = begun.elapsed().as_secs_f64();
        writeln!(table, "{:<12} {seconds:6.1} s  {verdict}", scenario.name)?;
    }
    for scenario in chosen(names)? {
        if let Err(error) = delete_namespace(&Kubectl::new(places), &namespace(scenario)) {
            say(&format!("FAIL {}: its namespace does not go: {error:#}", scenario.name));
            failed.push(scenario.name);
        }
    }
    say(table.trim_end());
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn one(places: &Places, scenario: &Scenario) -> Result<()> {
    all_components_run()?;
    let namespace = namespace(scenario);
    let kubectl = Kubectl::new(places);
    delete_namespace(&kubectl, &namespace)?;
    kubectl.apply(&namespace_manifest(&namespace))?;
    let cluster = Cluster {
        places: places.clone(),
        kubectl: kubectl.namespace(&namespace),
        helm: Helm::new(places, &namespace),
        namespace: namespace.clone(),
        name: scenario.name,
    };
    let ended = (scenario.run)(&cluster).and_then(|()| all_components_run());
    if ended.is_err() {
        keep_traces(&cluster);
    }
    // It takes a quarter of a minute, beside the next scenario: see `run_inside`.
    kubectl.run(&["delete", "namespace", &namespace, "--wait=false"])?;
    ended
}

fn namespace(scenario: &Scenario) -> String {
    format!("e2e-{}", scenario.name)
}

fn namespace_manifest(name: &str) -> String {
    let labels = json!({
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/enforce-version": "latest",
    });
    let metadata = json!({ "name": name, "labels": labels });
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata }).to_string()
}

fn delete_namespace(kubectl: &Kubectl, name: &str) -> Result<()> {
    let limit = format!("--timeout={}s", DELETE_LIMIT.as_secs());
    let words = ["delete", "namespace", name, "--ignore-not-found", &limit];
    kubectl.run_within(DELETE_LIMIT + Duration::from_secs(10), &words).map(drop)
}

fn all_components_run() -> Result<()> {
    let path = Path::new(NODE_DIR).join(crate::node::ENDED_FILE);
    match fs::read_to_string(path) {
        Ok(sentences) => bail!("the node is not whole: {}", sentences.trim().replace('\n', "; ")),
        Err(_) => Ok(()),
    }
}

/// What is needed to understand a failure, into the log directory.
fn keep_traces(cluster: &Cluster) {
    let dir = format!("{NODE_DIR}/log/{}", cluster.namespace);
    // What cannot be had is left out: the failure itself is what is reported.
    if fs::create_dir_all(&dir).is_err() {
        return;
    }
    for (file, words) in [
        ("objects", &["get", "all,pvc,secrets,configmaps", "-o", "wide"][..]),
        ("events", &["get", "events", "--sort-by=.lastTimestamp"]),
        ("pods", &["describe", "pods"]),
    ] {
        if let Ok(said) = cluster.kubectl.run(words) {
            let _ = fs::write(format!("{dir}/{file}"), said);
        }
    }
    let pods = cluster.kubectl.run(&["get", "pods", "-o", "name"]).unwrap_or_default();
    for pod in pods.lines() {
        let name = pod.trim_start_matches("pod/");
        for (suffix, more) in [("", &[][..]), (".previous", &["--previous"])] {
            let words = [&["logs", name, "--all-containers"], more].concat();
            if let Ok(said) = cluster.kubectl.run(&words) {
                let _ = fs::write(format!("{dir}/{name}{suffix}.log"), said);
            }
        }
    }
    say(&format!("     traces: log/{} of the state directory", cluster.namespace));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_that_is_not_there_is_named_with_those_that_are() {
        assert_eq!(chosen(&[]).unwrap().len(), ALL.len());
        let Err(error) = chosen(&["nothing".to_owned()]) else { panic!() };
        assert!(error.to_string().starts_with("nothing: no such scenario; there are: node"));
    }

    #[test]
    fn names_of_scenarios_are_names_of_namespaces() {
        for scenario in ALL {
            assert!(scenario.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
        }
    }
}
