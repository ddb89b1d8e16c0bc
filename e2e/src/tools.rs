//! kubectl, Helm and the container runtime's client, each with a limit and errors that quote it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::{self, Output};
use crate::places::{NODE_DIR, Places};
use crate::settings::CONTAINERD_SOCKET;

/// For a call that does not wait for anything in the cluster.
pub const CALL_LIMIT: Duration = Duration::from_secs(30);
/// For a call of Helm's, which may wait for what it installs.
pub const HELM_LIMIT: Duration = Duration::from_secs(180);
/// For reading an image of up to a few hundred megabytes.
pub const IMPORT_LIMIT: Duration = Duration::from_secs(120);

/// kubectl, as the cluster's administrator, inside the node.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    namespace: Option<String>,
}

impl Kubectl {
    /// In the namespace `default`.
    pub fn new(places: &Places) -> Kubectl {
        Kubectl { program: places.program("kubectl"), namespace: None }
    }

    /// The same in another namespace.
    pub fn namespace(&self, name: &str) -> Kubectl {
        Kubectl { namespace: Some(name.to_owned()), ..self.clone() }
    }

    /// The command, for those who run it in a way of their own.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env("KUBECONFIG", admin());
        // Discovery is cached below the home directory otherwise.
        command.env("KUBECACHEDIR", format!("{NODE_DIR}/work/kubectl"));
        if let Some(namespace) = &self.namespace {
            command.args(["--namespace", namespace]);
        }
        command.args(args);
        command
    }

    /// To a good end; standard output.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.run_within(CALL_LIMIT, args)
    }

    /// The same, for calls that wait.
    pub fn run_within(&self, limit: Duration, args: &[&str]) -> Result<String> {
        command::run_well(&mut self.command(args), b"", limit)
    }

    /// To any end, for what is expected to be refused.
    pub fn try_run(&self, args: &[&str], input: &str) -> Result<Output> {
        command::run(&mut self.command(args), input.as_bytes(), CALL_LIMIT)
    }

    /// `kubectl get ARGS -o json`.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let args = [&["get"], args, &["-o", "json"]].concat();
        let said = self.run(&args)?;
        serde_json::from_str(&said).with_context(|| format!("kubectl {}", args.join(" ")))
    }

    /// Applies manifests, YAML or JSON.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let mut command = self.command(&["apply", "-f", "-"]);
        command::run_well(&mut command, manifests.as_bytes(), CALL_LIMIT).map(drop)
    }

    /// Runs a program in a pod.
    pub fn exec(&self, pod: &str, words: &[&str]) -> Result<String> {
        self.run(&[&["exec", pod, "--"], words].concat())
    }
}

/// Helm, inside the node.
#[derive(Clone, Debug)]
pub struct Helm {
    program: PathBuf,
    namespace: String,
}

impl Helm {
    /// For releases in a namespace.
    pub fn new(places: &Places, namespace: &str) -> Helm {
        Helm { program: places.program("helm"), namespace: namespace.to_owned() }
    }

    /// To a good end; standard output.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.try_run(args)?;
        if !output.status.success() {
            anyhow::bail!("helm {}: {}", args.join(" "), output.stderr.trim());
        }
        Ok(output.stdout)
    }

    /// To any end, for what is expected to be refused.
    pub fn try_run(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.program);
        command.env("KUBECONFIG", admin()).env("HELM_NO_PLUGINS", "1");
        for (name, dir) in [
            ("HELM_CACHE_HOME", "cache"),
            ("HELM_CONFIG_HOME", "config"),
            ("HELM_DATA_HOME", "data"),
        ] {
            command.env(name, format!("{NODE_DIR}/work/helm/{dir}"));
        }
        command.args(["--namespace", &self.namespace]).args(args);
        command::run(&mut command, b"", HELM_LIMIT)
    }
}

fn admin() -> String {
    format!("{NODE_DIR}/identities/admin.kubeconfig")
}

/// containerd's own client.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Put before the program's name: how to get inside.
    enter: Vec<String>,
}

impl Runtime {
    /// For a process inside.
    pub fn inside() -> Runtime {
        Runtime { enter: Vec::new() }
    }

    /// For a process outside, which gets inside by these words.
    pub fn through(enter: Vec<String>) -> Runtime {
        Runtime { enter }
    }

    /// Makes the images of an archive known, under the names in it; answers with what ctr said.
    pub fn import(&self, archive: &[u8]) -> Result<String> {
        let ctr = ["ctr", "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io"];
        let words = self.enter.iter().map(String::as_str).chain(ctr);
        let mut words = words.chain(["images", "import", "-"]);
        let mut command = Command::new(words.next().expect("there are words"));
        command::run_well(command.args(words), archive, IMPORT_LIMIT)
    }

    /// The same, from a file outside.
    pub fn import_file(&self, archive: &Path) -> Result<String> {
        let bytes = std::fs::read(archive).with_context(|| archive.display().to_string())?;
        self.import(&bytes).with_context(|| archive.display().to_string())
    }
}
