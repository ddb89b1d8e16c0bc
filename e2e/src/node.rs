//! Starts the node's components, in the order in which they need each other, and stays with them.
//!
//! What it prints is the progress that `up` shows. Once the node can take pods it writes
//! [`READY_FILE`]; when a component ends before it was told to, [`ENDED_FILE`] says so, and the others go
//! on, so that what happened can be looked at.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::places::{NODE_ADDRESS, NODE_DIR, NODE_NAME, Places};
use crate::tools::{Kubectl, Runtime};
use crate::wait::say;
use crate::{command, identities, image, settings, volumes};

/// In the state directory: there once the node can take pods.
pub const READY_FILE: &str = "ready";
/// In the state directory: which components have ended, and how.
pub const ENDED_FILE: &str = "ended";

/// Longest wait for a component to take connections; a busy machine of two cores included.
const START_LIMIT: Duration = Duration::from_secs(90);
/// Longest wait for a component to end when it is told to.
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// For a command that only sets something.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);
const WATCH_EVERY: Duration = Duration::from_millis(500);

struct Component {
    name: &'static str,
    child: Child,
    ended: bool,
}

/// The components, in the order of their start.
struct Components {
    places: Places,
    terminated: Receiver<()>,
    all: Vec<Component>,
}

impl Components {
    fn start(&mut self, name: &'static str, program: &Path, args: &[String]) -> Result<()> {
        let log = format!("{NODE_DIR}/log/{name}.log");
        let log = File::create(&log).context(log)?;
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{name}: {}", program.display()))?;
        self.all.push(Component { name, child, ended: false });
        Ok(())
    }

    fn start_built(&mut self, name: &'static str, args: &[String]) -> Result<()> {
        let program = self.places.program(name);
        self.start(name, &program, args)
    }

    /// Those that have ended since the last look, each with a sentence.
    fn ended(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        for component in self.all.iter_mut().filter(|component| !component.ended) {
            let name = component.name;
            let how = match component.child.try_wait() {
                Ok(None) => continue,
                Ok(Some(status)) => status.to_string(),
                Err(error) => error.to_string(),
            };
            component.ended = true;
            found.push(format!("{name} ended: {how}; its log: log/{name}.log"));
        }
        found
    }

    fn all_run(&mut self) -> Result<()> {
        if self.terminated.try_recv().is_ok() {
            bail!("told to end");
        }
        match self.ended().first() {
            None => Ok(()),
            Some(sentence) => bail!("{sentence}"),
        }
    }

    /// Waits until `look` finds it done, as long as every component runs.
    fn wait(&mut self, what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
        let begun = Instant::now();
        let mut last = None;
        loop {
            match look() {
                Ok(true) => {
                    say(&format!("  {what:<42} {:5.1} s", begun.elapsed().as_secs_f64()));
                    return Ok(());
                }
                Ok(false) => {}
                Err(error) => last = Some(error),
            }
            self.all_run().with_context(|| what.to_owned())?;
            if begun.elapsed() > START_LIMIT {
                let last = last.map_or_else(String::new, |error| format!(": {error:#}"));
                bail!("{what}: not within {START_LIMIT:?}{last}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// In the order that leaves nobody without what it needs to end well.
    fn stop(&mut self) {
        let order = [
            "kubelet",
            "kube-proxy",
            "coredns",
            "kube-scheduler",
            "kube-controller-manager",
            "kube-apiserver",
            "etcd",
            "containerd",
        ];
        for name in order {
            let found = self.all.iter_mut().find(|component| component.name == name);
            let Some(component) = found.filter(|component| !component.ended) else { continue };
            let _ = kill_process(Pid::from_child(&component.child), Signal::TERM);
            let begun = Instant::now();
            while begun.elapsed() < STOP_LIMIT && matches!(component.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            // No harm if it has ended.
            let _ = component.child.kill();
            let _ = component.child.wait();
            say(&format!("  {name:<42} stopped"));
        }
    }
}

/// Runs until SIGTERM.
pub fn run(places: &Places) -> Result<()> {
    let mut components =
        Components { places: places.clone(), terminated: sigterm()?, all: Vec::new() };
    let ended = match bring_up(&mut components) {
        Ok(()) => stay(&mut components),
        Err(error) => Err(error),
    };
    components.stop();
    ended
}

fn sigterm() -> Result<Receiver<()>> {
    let (send, receive) = channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut terminated = {
        let _entered = runtime.enter();
        signal(SignalKind::terminate())?
    };
    std::thread::spawn(move || {
        runtime.block_on(async { terminated.recv().await });
        // Whoever listened has gone already.
        let _ = send.send(());
    });
    Ok(receive)
}

fn stay(components: &mut Components) -> Result<()> {
    let ready = Path::new(NODE_DIR).join(READY_FILE);
    fs::write(&ready, "").with_context(|| ready.display().to_string())?;
    let mut all_ended = String::new();
    loop {
        match components.terminated.recv_timeout(WATCH_EVERY) {
            Ok(()) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => bail!("nobody listens for SIGTERM any more"),
            Err(RecvTimeoutError::Timeout) => {}
        }
        for sentence in components.ended() {
            say(&sentence);
            all_ended += &(sentence + "\n");
            fs::write(Path::new(NODE_DIR).join(ENDED_FILE), &all_ended)?;
        }
    }
}

fn bring_up(components: &mut Components) -> Result<()> {
    network().context("the node's network")?;
    for dir in ["log/pods", "settings/cni", "kubelet/plugins", "work", "volumes"] {
        let dir = format!("{NODE_DIR}/{dir}");
        fs::create_dir_all(&dir).context(dir)?;
    }
    identities::write(&Path::new(NODE_DIR).join("identities"))?;
    write_settings(&components.places)?;

    let begun = Instant::now();
    components.start_built("etcd", &settings::etcd())?;
    components.start("containerd", Path::new("/usr/bin/containerd"), &settings::containerd())?;
    components.wait("etcd takes connections", || {
        Ok(TcpStream::connect("127.0.0.1:2379").map(|_| true)?)
    })?;
    components.start_built("kube-apiserver", &settings::api_server())?;

    // The API server takes some seconds of one core.
    let work = PathBuf::from(format!("{NODE_DIR}/work"));
    let archive = work.join("pause.tar");
    image::write_pause(&work, &archive)?;
    let runtime = Runtime::inside();
    components.wait("containerd holds the pause image", || {
        runtime.import(&fs::read(&archive)?).map(|_| true)
    })?;

    let kubectl = Kubectl::new(&components.places);
    components.wait("the API server is ready", || {
        kubectl.run(&["get", "--raw=/readyz"]).map(|said| said == "ok")
    })?;
    components.start_built("kubelet", &settings::kubelet())?;
    components.start_built("kube-controller-manager", &settings::controller_manager())?;
    components.start_built("kube-scheduler", &settings::scheduler())?;
    components.start_built("kube-proxy", &settings::proxy())?;
    kubectl.apply(&settings::manifests())?;
    components.start_built("coredns", &settings::dns())?;
    volumes::start(&components.places);

    components.wait("the node is ready", || {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status} {.spec.taints}";
        let said = kubectl.run(&["get", "node", NODE_NAME, "-o", path])?;
        Ok(said.trim() == "True")
    })?;
    components.wait("the default service account exists", || {
        kubectl.run(&["get", "serviceaccount", "default", "-o", "name"]).map(|_| true)
    })?;
    components.wait("CoreDNS knows the cluster", || {
        let answer = http_get(settings::DNS_READY, "/ready")?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    })?;
    say(&format!("  {:<42} {:5.1} s", "all of it", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// A bridge for an Ethernet device, since a kernel may lack the dummy one, and a default route because
/// components ask for one.
fn network() -> Result<()> {
    let address = format!("{NODE_ADDRESS}/24");
    for words in [
        &["link", "set", "lo", "up"][..],
        &["link", "add", "eth0", "type", "bridge"],
        &["address", "add", &address, "dev", "eth0"],
        &["link", "set", "eth0", "up"],
        &["route", "add", "default", "dev", "eth0"],
    ] {
        command::run_well(Command::new("ip").args(words), b"", COMMAND_LIMIT)?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("net.ipv4.ip_forward")
}

fn write_settings(places: &Places) -> Result<()> {
    for (file, text) in [
        ("audit.json", settings::audit()),
        ("kubelet.json", settings::kubelet_file(&places.cgroup())),
        ("resolv-pods.conf", settings::resolv_pods()),
        ("proxy.json", settings::proxy_file()),
        ("Corefile", settings::corefile()),
        ("containerd.toml", settings::containerd_file()),
        ("cni/pods.conflist", settings::cni()),
    ] {
        let path = format!("{NODE_DIR}/settings/{file}");
        fs::write(&path, text).context(path)?;
    }
    Ok(())
}

/// One plain request; the whole answer.
fn http_get(address: &str, path: &str) -> Result<String> {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(COMMAND_LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
