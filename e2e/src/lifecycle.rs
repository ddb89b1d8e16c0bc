//! `up` and `down`, from outside the node, and the way in.
//!
//! `up` starts one process, [`crate::init`], in namespaces of its own and waits until [`crate::node`]
//! says that it is ready. Whatever happens to `up` itself, that process is known by the file it writes
//! first, so `down` finds it; and whatever happens to that process, the kernel ends the rest of the
//! node with it. What is left then is files and empty control groups.

use std::fs::{self, File, TryLockError};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::cgroup::Group;
use crate::init::{IDENTITY_FILE, INIT_ARGUMENT};
use crate::node::{ENDED_FILE, READY_FILE};
use crate::places::Places;
use crate::process::Identity;
use crate::tools::Runtime;
use crate::wait::say;

/// From nothing to a node that takes pods, on a busy machine of two cores.
const UP_LIMIT: Duration = Duration::from_secs(240);
/// For all components together to end as they should.
const DOWN_LIMIT: Duration = Duration::from_secs(40);
/// For the kernel to end what did not.
const KILL_LIMIT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Lines of a log that an error shows.
const LOG_LINES_SHOWN: usize = 15;

/// What the node's programs are, for a message that says what to install.
const PROGRAMS: [&str; 10] = [
    "etcd",
    "etcdctl",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
    "coredns",
    "prometheus",
];

/// Where the node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// There is none.
    Down,
    /// Its first process runs.
    Starting(Identity),
    /// It takes pods, or did: see [`ended`].
    Up(Identity),
}

/// Where it is now.
pub fn state(places: &Places) -> State {
    let text = fs::read_to_string(places.state().join(IDENTITY_FILE)).unwrap_or_default();
    match text.parse::<Identity>() {
        Ok(init) if init.is_alive() => match places.state().join(READY_FILE).exists() {
            true => State::Up(init),
            false => State::Starting(init),
        },
        _ => State::Down,
    }
}

/// Components that have ended although nobody told them to, a line each.
pub fn ended(places: &Places) -> String {
    fs::read_to_string(places.state().join(ENDED_FILE)).unwrap_or_default()
}

/// Only one `up` or `down` at a time.
fn lock(places: &Places) -> Result<File> {
    if !rustix::process::geteuid().is_root() {
        bail!("namespaces, control groups and containers need root");
    }
    let path = places.lock();
    fs::create_dir_all(&places.cache).with_context(|| places.cache.display().to_string())?;
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another up or down is at work ({})", path.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Brings the node up; that it is up already is fine.
pub fn up(places: &Places) -> Result<()> {
    let _lock = lock(places)?;
    if let State::Up(init) = state(places) {
        let ended = ended(places);
        if !ended.is_empty() {
            let ended = ended.trim().replace('\n', "; ");
            bail!("the node is up but not whole (cargo xtask e2e down ends it): {ended}");
        }
        say(&format!("the node is up already, process {}", init.pid));
        return Ok(());
    }
    let begun = Instant::now();
    let started = match state(places) {
        State::Down => {
            programs(places)?;
            remove(places)?;
            Some(start(places)?)
        }
        _ => None,
    };
    if let Err(error) = follow(places, started) {
        remove(places)?;
        return Err(error);
    }
    say(&format!("the node is up after {:.1} s", begun.elapsed().as_secs_f64()));
    say(&format!("  cargo xtask e2e kubectl get pods -A     ({})", places.kubeconfig().display()));
    Ok(())
}

/// Builds and installs what is missing.
fn programs(places: &Places) -> Result<()> {
    let missing = PROGRAMS.iter().any(|name| !places.program(name).exists());
    let plugins = Path::new(crate::settings::CNI_PROGRAMS).join("ptp");
    if !missing && plugins.exists() && Path::new("/usr/bin/containerd").exists() {
        return Ok(());
    }
    for (script, arguments) in
        [("tools.sh", &[][..]), ("kubernetes.sh", &[]), ("tools.sh", &["prometheus"])]
    {
        let path = places.root.join(".ci").join(script);
        let mut command = Command::new(&path);
        command.args(arguments);
        let status = command.env("METASTORE_CACHE", &places.cache).status();
        if !status.with_context(|| path.display().to_string())?.success() {
            bail!("{}: failed", path.display());
        }
    }
    Ok(())
}

fn start(places: &Places) -> Result<Child> {
    let log = places.log();
    fs::create_dir_all(&log).with_context(|| log.display().to_string())?;
    let said = File::create(log.join("node.log")).context("node.log")?;
    let own = std::env::current_exe().context("the path of this program")?;
    Command::new("unshare")
        .args(["--pid", "--fork", "--mount", "--net", "--"])
        .arg(own)
        .arg(INIT_ARGUMENT)
        .env("METASTORE_CACHE", &places.cache)
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said)
        .current_dir("/")
        // Of another group than the terminal's: an interrupt of `up` is not one of the node.
        .process_group(0)
        .spawn()
        .context("unshare")
}

/// Shows what the node says until it is ready.
fn follow(places: &Places, mut started: Option<Child>) -> Result<()> {
    let log = places.log().join("node.log");
    let begun = Instant::now();
    let mut shown = 0;
    loop {
        let now = state(places);
        let over = match &mut started {
            Some(child) => child.try_wait()?.is_some(),
            None => now == State::Down,
        };
        let text = fs::read_to_string(&log).unwrap_or_default();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        text[shown.min(whole)..whole].lines().for_each(say);
        shown = whole;
        if matches!(now, State::Up(_)) {
            return Ok(());
        }
        if over {
            show_log(places, &text);
            bail!("the node did not come up; its logs: {}", places.log().display());
        }
        if begun.elapsed() > UP_LIMIT {
            bail!("the node is not up after {UP_LIMIT:?}; its logs: {}", places.log().display());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The end of the log that the last line speaks of.
fn show_log(places: &Places, text: &str) {
    let last = text.lines().last().unwrap_or_default();
    let named = last.split_whitespace().find(|word| word.starts_with("log/"));
    let Some(path) = named.map(|name| places.state().join(name)) else { return };
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
        say(&format!("    {line}"));
    }
}

/// Ends the node and removes everything but its logs; that there is none is fine.
pub fn down(places: &Places) -> Result<()> {
    let _lock = lock(places)?;
    let found = state(places);
    let begun = Instant::now();
    remove(places)?;
    match found {
        State::Down => say("no node was up; nothing of one is left"),
        _ => say(&format!(
            "the node is down after {:.1} s; its logs: {}",
            begun.elapsed().as_secs_f64(),
            places.log().display()
        )),
    }
    Ok(())
}

fn remove(places: &Places) -> Result<()> {
    if let State::Up(init) | State::Starting(init) = state(places) {
        init.signal(Signal::TERM)?;
        if !init.ends_within(DOWN_LIMIT) {
            say("the node does not end by itself: it is killed");
            init.signal(Signal::KILL)?;
            if !init.ends_within(KILL_LIMIT) {
                bail!("process {} does not end, killed as it is", init.pid);
            }
        }
    }
    Group::new(&places.cgroup())?.remove()?;
    let state = places.state();
    let entries = match fs::read_dir(&state) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| state.display().to_string()),
    };
    // Mounts were the node's own. One that is seen here would take another's files with it.
    let mounts = fs::read_to_string("/proc/mounts").context("/proc/mounts")?;
    let below =
        |line: &str| line.split(' ').nth(1).is_some_and(|at| Path::new(at).starts_with(&state));
    if let Some(mount) = mounts.lines().find(|line| below(line)) {
        bail!("something is mounted below {}: {mount}", state.display());
    }
    for entry in entries {
        let path = entry?.path();
        if path == places.log() {
            continue;
        }
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// The words before a program's name that take it inside: its mounts, network and processes.
pub fn enter(places: &Places) -> Result<Vec<String>> {
    let init = up_or_error(places)?;
    let target = init.pid.to_string();
    let words = ["nsenter", "--target", &target, "--mount", "--net", "--pid", "--wdns=/", "--"];
    Ok(words.map(str::to_owned).to_vec())
}

/// The words that take a program into the network alone: files are those of the outside.
pub fn enter_network(places: &Places) -> Result<Vec<String>> {
    let init = up_or_error(places)?;
    let target = init.pid.to_string();
    Ok(["nsenter", "--target", &target, "--net", "--"].map(str::to_owned).to_vec())
}

fn up_or_error(places: &Places) -> Result<Identity> {
    match state(places) {
        State::Up(init) => Ok(init),
        State::Starting(_) => bail!("the node is still starting"),
        State::Down => bail!("the node is not up: cargo xtask e2e up"),
    }
}

/// Loads the images of an archive into the node.
pub fn load(places: &Places, archive: &Path) -> Result<()> {
    let said = Runtime::through(enter(places)?).import_file(archive)?;
    said.lines().for_each(say);
    Ok(())
}

/// What is up, for people.
pub fn status(places: &Places) -> Result<()> {
    match state(places) {
        State::Down => say("down"),
        State::Starting(init) => say(&format!("starting, process {}", init.pid)),
        State::Up(init) => {
            say(&format!("up, process {}", init.pid));
            say(&format!("logs        {}", places.log().display()));
            say(&format!("kubeconfig  {}", places.kubeconfig().display()));
            ended(places).lines().for_each(say);
        }
    }
    Ok(())
}

/// Becomes the program behind `words`; comes back only if that is not possible.
pub fn become_program(words: &[String], environment: &[(&str, String)]) -> anyhow::Error {
    let (program, args) = words.split_first().expect("there are words");
    let mut command = Command::new(program);
    command.args(args).envs(environment.iter().map(|(name, value)| (name, value)));
    anyhow::Error::from(command.exec()).context(program.clone())
}
